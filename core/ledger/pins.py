"""Which kinds of instances a waiting job may run on: its pins, the digests of the catalogues that accept its graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, literal_column, select, update

from core.job import FAILED, QUEUED
from core.ledger.database import Database
from core.ledger.tables import jobs
from core.ledger.transitions import transition

#: Spelled out: neither database matches a parameter with the condition of the index `jobs_pinned`.
_QUEUED: Any = literal_column(f"'{QUEUED}'")


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A waiting job that not every instance may run."""

    job_id: str
    catalogues: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PinnedGraph:
    """What a job is judged by."""

    #: JSON text, API format.
    graph: str
    #: Names in the input folder of the files that are brought there before it runs.
    staged_files: frozenset[str]


class Pins:
    """What the reconciler does to waiting jobs when the fleet has changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def waiting(self, *, after: str, limit: int) -> list[Pinned]:
        """Waiting jobs with pins, by id; those after one of them."""
        query = (
            select(jobs.c.id, jobs.c.catalogues)
            .where(jobs.c.status == _QUEUED, jobs.c.catalogues.is_not(None), jobs.c.id > after)
            .order_by(jobs.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [Pinned(job_id=row.id, catalogues=tuple(row.catalogues.split(","))) for row in rows]

    def graph(self, job_id: str) -> PinnedGraph | None:
        """What a job wants to run; None if it is gone."""
        with self._database.read() as connection:
            row = connection.execute(select(jobs.c.graph, jobs.c.inputs).where(jobs.c.id == job_id)).one_or_none()
        if row is None:
            return None
        return PinnedGraph(graph=row.graph, staged_files=frozenset(file["name"] for file in row.inputs or ()))

    def change(self, pinned: Pinned, catalogues: Sequence[str] | None) -> bool:
        """Give a job other pins, None for none; False if it waits no more, or somebody else has done so."""
        values: dict[str, Any] = {"catalogues": ",".join(catalogues) if catalogues is not None else None}
        with self._database.write() as transaction:
            done = transaction.connection.execute(update(jobs).where(_as_it_was(pinned)).values(**values))
        return done.rowcount > 0

    def fail(self, pinned: Pinned, error: dict[str, Any]) -> bool:
        """End a job that nothing can run; False if it waits no more, or has other pins by now.

        Parameters:
          error: `{"code", "message", "node_id", "class_type", "traceback"}`.
        """
        with self._database.write() as transaction:
            return transition(transaction, pinned.job_id, FAILED, _as_it_was(pinned), error=error) is not None


def _as_it_was(pinned: Pinned) -> Any:
    return and_(jobs.c.id == pinned.job_id, jobs.c.status == QUEUED, jobs.c.catalogues == ",".join(pinned.catalogues))
