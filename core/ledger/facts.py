"""Single facts that all processes of a fleet agree on: whoever comes first writes one, and it stays; and marks."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Connection, insert, select, update

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.error_map import Conflict
from core.ledger.database.fleet_tables import facts

#: Tells one fleet, that is one ledger, from another.
FLEET = "fleet"
#: What the marker in the fleet's storage says, see core/storage/marker.py.
STORAGE = "storage"


#: When the reconciler looked at the clock last, and when that was set, see core/ledger/timekeeping.py.
CLOCK = "clock"
#: Written to see whether the ledger takes writes; says when that was.
WRITTEN = "written"


def write_fact(connection: Connection, name: str, value: str) -> None:
    """Write something that changes, within a transaction. Raises Conflict: another one has written the first."""
    if not connection.execute(update(facts).where(facts.c.name == name).values(value=value)).rowcount:
        connection.execute(insert(facts).values(name=name, value=value))


class Facts:
    """The facts of one fleet, by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> str | None:
        """Return a fact, or None."""
        with self._database.read() as connection:
            return connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar()

    def settle(self, name: str, value: str) -> str:
        """Write a fact unless there is one; returns what is true now."""
        try:
            with self._database.write() as transaction:
                known = transaction.connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar()
                if known is None:
                    transaction.connection.execute(insert(facts).values(name=name, value=value))
        except Conflict:
            # Another process was first by a moment.
            return self.get(name) or value
        return value if known is None else str(known)

    def mark(self, name: str, value: str) -> None:
        """Write something that changes: what there is goes."""
        # Where two write the first one at the same moment, either will do.
        with suppress(Conflict), self._database.write() as transaction:
            write_fact(transaction.connection, name, value)

    def try_write(self) -> None:
        """Find out whether the ledger takes writes: a server after a failover, or with a full disk, only answers.

        Raises: LedgerUnavailable.
        """
        self.mark(WRITTEN, str(now_ms()))
