"""Which model files the GPUs of a host take no more jobs for, so that other files find room there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TypeAlias

from sqlalchemy import select, update

from core.ledger.database.connections import Database
from core.ledger.database.tables import instances
from core.records.model_file import Yield

#: As a column has it: `[[name, to, by], ...]`.
StoredYields: TypeAlias = Sequence[Sequence[str]]


class Yields:
    """Those of all hosts. A host writes what it wants itself, and removes what those wanted that are gone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, own: Iterable[Yield], *, by: str, hosts: Collection[str], alive: Collection[str]) -> None:
        """Have the GPUs of some hosts take no jobs of the files that one of them wants out of the way.

        Parameters:
          hosts: those that share a folder.
          alive: hosts whose wishes count still.
        """
        rows = select(instances.c.name, instances.c.yields).where(instances.c.host.in_(list(hosts)))
        with self._database.write() as transaction:
            connection = transaction.connection
            for name, stored in connection.execute(rows.order_by(instances.c.name).with_for_update()).all():
                others = [each for each in yields_of(stored) if each.by != by and each.by in alive]
                wanted = [[each.name, each.to, each.by] for each in (*others, *own)] or None
                if wanted != stored:
                    connection.execute(update(instances).where(instances.c.name == name).values(yields=wanted))


def yields_of(stored: StoredYields | None) -> tuple[Yield, ...]:
    """Return what a column says."""
    return tuple(Yield(name=name, to=to, by=by) for name, to, by in stored or ())
