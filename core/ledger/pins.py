"""Which kinds of instances a waiting job may run on: its pins, the digests of the catalogues that accept its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, literal_column, select, update

from core.ledger.claims import Claim, held_by
from core.ledger.database.connections import Database
from core.ledger.database.stored_fields import RowReader
from core.ledger.database.tables import jobs
from core.ledger.transitions import transition
from core.records.job import FAILED, QUEUED, InputRef
from core.records.job_error import JobError

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
    inputs: tuple[InputRef, ...] = ()

    @property
    def staged_files(self) -> frozenset[str]:
        """Return the names in the input folder of the files that are brought there before it runs."""
        return frozenset(file.name for file in self.inputs)


_JUDGED = RowReader(PinnedGraph)


class Pins:
    """What the reconciler does to waiting jobs when the fleet has changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def waiting(self, *, after: str, limit: int) -> list[Pinned]:
        """Return waiting jobs with pins, by id; those after one of them."""
        query = (
            select(jobs.c.id, jobs.c.catalogues)
            .where(jobs.c.status == _QUEUED, jobs.c.catalogues.is_not(None), jobs.c.id > after)
            .order_by(jobs.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [Pinned(job_id=row.id, catalogues=tuple(row.catalogues.split(","))) for row in rows]

    def graphs(self, job_ids: Sequence[str]) -> dict[str, PinnedGraph]:
        """Return the graphs of jobs by their ids; jobs that are gone are left out."""
        query = select(jobs.c.id, jobs.c.graph, jobs.c.inputs).where(jobs.c.id.in_(list(job_ids)))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return {row.id: PinnedGraph(**_JUDGED.fields(row)) for row in rows}

    def change(self, changes: Mapping[Pinned, Sequence[str] | None]) -> None:
        """Give jobs other pins, None for none. One that waits no more, or has other pins by now, keeps what it has."""
        alike: dict[tuple[str, str | None], list[str]] = {}
        for pinned, catalogues in changes.items():
            pins = None if catalogues is None else ",".join(catalogues)
            alike.setdefault((",".join(pinned.catalogues), pins), []).append(pinned.job_id)
        with self._database.write() as transaction:
            for (before, pins), job_ids in alike.items():
                are_as_before = and_(jobs.c.status == QUEUED, jobs.c.catalogues == before)
                transaction.connection.execute(
                    update(jobs).where(jobs.c.id.in_(job_ids), are_as_before).values(catalogues=pins)
                )

    def pin(self, claim: Claim, catalogues: Sequence[str]) -> bool:
        """Pin a job that an instance has now, for when it waits again; False when the attempt is stale."""
        with self._database.write() as transaction:
            done = transaction.connection.execute(
                update(jobs).where(held_by(claim)).values(catalogues=",".join(catalogues))
            )
        return done.rowcount > 0

    def fail(self, pinned: Pinned, error: JobError) -> bool:
        """End a job that no instance can run; False if it waits no more, or has other pins by now."""
        with self._database.write() as transaction:
            as_it_was = and_(jobs.c.status == QUEUED, jobs.c.catalogues == ",".join(pinned.catalogues))
            return transition(transaction, pinned.job_id, FAILED, as_it_was, error=error.to_json()) is not None
