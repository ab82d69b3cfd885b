"""Single facts that all processes of a fleet agree on: whoever comes first writes one, and it stays."""

from __future__ import annotations

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from core.ledger.database import Database
from core.ledger.tables import facts

#: Tells one fleet, that is one ledger, from another.
FLEET = "fleet"
#: What the marker in the fleet's storage says, see core/storage_marker.py.
STORAGE = "storage"


class Facts:
    """The facts of one fleet, by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> str | None:
        """A fact, or None."""
        with self._database.read() as connection:
            return connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar()

    def settle(self, name: str, value: str) -> str:
        """Write a fact unless there is one; returns what is true now."""
        try:
            with self._database.write() as transaction:
                known = transaction.connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar()
                if known is None:
                    transaction.connection.execute(insert(facts).values(name=name, value=value))
        except IntegrityError:
            # Another process was first by a moment.
            return self.get(name) or value
        return value if known is None else str(known)
