"""The processes of the fleet: each writes down its version, and reads what a rollout wants of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

from sqlalchemy import delete, insert, select, update

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.error_map import Conflict
from core.ledger.database.rollout_tables import processes
from core.ledger.database.tables import instances
from core.records.rollout import Renewal

#: A process other than a GPU worker that has said nothing for so long is taken for dead, and its row goes later.
SILENCE_MS = 45_000
FORGET_MS = 600_000


class Processes:
    """The rows of processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, process_id: str, *, role: str, host: str, program: str, can_upgrade: bool) -> Renewal | None:
        """Note that a process is alive; returns what is wanted of it."""
        said: dict[str, Any] = {"program": program, "can_upgrade": can_upgrade, "at_ms": now_ms()}
        known = update(processes).where(processes.c.id == process_id).values(**said).returning(processes.c.renewal)
        with suppress(Conflict), self._database.write() as transaction:
            if (row := transaction.connection.execute(known).one_or_none()) is not None:
                return cast("Renewal | None", row.renewal)
            values = {"id": process_id, "role": role, "host": host, "started_at_ms": now_ms(), **said}
            transaction.connection.execute(insert(processes).values(**values))
        return None

    def wanted(self, process_id: str) -> Renewal | None:
        """Return what a rollout wants of a process."""
        with self._database.read() as connection:
            found = connection.execute(select(processes.c.renewal).where(processes.c.id == process_id)).scalar()
        return cast("Renewal | None", found)

    def forget(self, process_id: str) -> None:
        """Forget a process that ends."""
        with self._database.write() as transaction:
            transaction.connection.execute(delete(processes).where(processes.c.id == process_id))

    def forget_silent(self) -> None:
        """Forget those that ended without a word."""
        owners = select(instances.c.worker)
        old = processes.c.at_ms < now_ms() - FORGET_MS
        # A GPU worker writes its sign of life elsewhere, and is replaced there by the next one.
        is_gone = old & ((processes.c.role != "gpu") | processes.c.id.not_in(owners))
        with self._database.read() as connection:
            gone = connection.execute(select(processes.c.id).where(is_gone)).scalars().all()
        if gone:
            with self._database.write() as transaction:
                transaction.connection.execute(delete(processes).where(processes.c.id.in_(gone), old))
