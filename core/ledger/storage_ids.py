"""Which storage is the fleet's: the id in its marker, that of the one it is about to move to, and those it has left."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import delete, select, update

from core.ledger.database.connections import Database
from core.ledger.database.fleet_tables import facts as table
from core.ledger.facts import FLEET, STORAGE, Facts, write_fact

#: The id in the marker of a storage that has the fleet's files, before anything was started on it.
STORAGE_NEXT = "storage_next"
#: Ids of the storages that the fleet was on before, the oldest first, with spaces between them.
STORAGE_LEFT = "storage_left"


@dataclass(frozen=True, kw_only=True)
class StorageIds:
    """Ids of markers, as the ledger has them."""

    current: str
    #: None: no move is prepared.
    next: str | None = None
    left: tuple[str, ...] = ()


class StorageMoves:
    """What processes write of the fleet's storage, and read."""

    def __init__(self, database: Database, facts: Facts) -> None:
        self._database = database
        self._facts = facts

    def fleet(self) -> str:
        """Return what tells this fleet from others, in the markers of its storages."""
        return self._facts.settle(FLEET, uuid.uuid4().hex)

    def begin(self, first: str) -> StorageIds:
        """Make the storage with this id the fleet's, unless it has one; returns the ids that are true now."""
        return StorageIds(current=self._facts.settle(STORAGE, first))

    def ids(self) -> StorageIds | None:
        """Return the ids; None: the fleet has no storage yet."""
        wanted = table.c.name.in_([STORAGE, STORAGE_NEXT, STORAGE_LEFT])
        with self._database.read() as connection:
            known = {row.name: row.value for row in connection.execute(select(table).where(wanted))}
        if STORAGE not in known:
            return None
        left = tuple(known.get(STORAGE_LEFT, "").split())
        return StorageIds(current=known[STORAGE], next=known.get(STORAGE_NEXT), left=left)

    def prepare(self) -> str:
        """Return a new id for the marker of the storage that the fleet is to move to; one of before is good no more."""
        announced = uuid.uuid4().hex
        with self._database.write() as transaction:
            write_fact(transaction.connection, STORAGE_NEXT, announced)
        return announced

    def move(self, announced: str) -> bool:
        """Make the storage with this id the fleet's, and the one of before a storage that it has left.

        Returns: False where it is not the one that was prepared last; another process may have done it already.
        """
        with self._database.write() as transaction:
            connection = transaction.connection
            prepared = table.c.name == STORAGE_NEXT, table.c.value == announced
            if not connection.execute(delete(table).where(*prepared)).rowcount:
                return False
            before = connection.execute(select(table.c.value).where(table.c.name == STORAGE)).scalar_one()
            connection.execute(update(table).where(table.c.name == STORAGE).values(value=announced))
            left = connection.execute(select(table.c.value).where(table.c.name == STORAGE_LEFT)).scalar() or ""
            write_fact(connection, STORAGE_LEFT, f"{left} {before}".strip())
        return True
