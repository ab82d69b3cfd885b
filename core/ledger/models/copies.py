"""What hosts have of the manifest's files, as each of them tells the ledger."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.error_map import Conflict
from core.ledger.database.model_tables import model_copies
from core.ledger.database.tables import instances
from core.records.model_file import ModelCopy

_COPIES = select(model_copies).order_by(model_copies.c.host, model_copies.c.path)


class Copies:
    """The copies of all hosts. A host writes its own alone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[ModelCopy]:
        """Return the copies of all hosts, by host and path."""
        with self._database.read() as connection:
            return read_copies(connection)

    def put(self, copy: ModelCopy) -> None:
        """Record what a host has of a file."""
        values = asdict(copy) | {"updated_at_ms": now_ms()}
        mine = (model_copies.c.host == copy.host, model_copies.c.path == copy.path)
        try:
            with self._database.write() as transaction:
                changed = transaction.connection.execute(update(model_copies).where(*mine).values(**values))
                if not changed.rowcount:
                    transaction.connection.execute(insert(model_copies).values(**values))
        except Conflict:
            # Another worker of the host took over in this moment, and says the same or newer things.
            return

    def drop(self, host: str, paths: Collection[str]) -> None:
        """Forget what a host had of some files."""
        if paths:
            with self._database.write() as transaction:
                gone = (model_copies.c.host == host, model_copies.c.path.in_(list(paths)))
                transaction.connection.execute(delete(model_copies).where(*gone))

    def forget_silent(self) -> None:
        """Forget the copies of hosts that no instance is known of any more."""
        known = select(instances.c.host)
        with self._database.write() as transaction:
            transaction.connection.execute(delete(model_copies).where(model_copies.c.host.not_in(known)))


def read_copies(connection: Connection) -> list[ModelCopy]:
    """Return the copies of all hosts, by host and path."""
    return [_copy(row) for row in connection.execute(_COPIES)]


def _copy(row: Row[Any]) -> ModelCopy:
    return ModelCopy(**row._mapping)
