"""Which kinds of instances a waiting job may run on: its pins, the digests of the catalogues that accept its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import and_, select, update

from core.ledger.claims import Claim, held_by
from core.ledger.database.connections import Database
from core.ledger.database.graph_texts import GRAPH_COLUMNS, whole_graphs
from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.stored_fields import RowReader
from core.ledger.database.tables import jobs
from core.ledger.scheduling.lines import Lines
from core.ledger.transitions import transition
from core.records.job import FAILED, QUEUED, InputRef
from core.records.job_error import JobError


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A waiting job that not every instance may run."""

    job_id: str
    catalogues: tuple[str, ...]
    #: Model files that its graph loads.
    files: tuple[str, ...] = ()


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


_JUDGED = RowReader(PinnedGraph, without=("graph",))


class Pins:
    """What the reconciler does to waiting jobs when the fleet has changed."""

    def __init__(self, database: Database, lines: Lines) -> None:
        self._database = database
        self._lines = lines

    def waiting(self, *, after: str, limit: int) -> list[Pinned]:
        """Return waiting jobs with pins, by id; those after one of them."""
        query = (
            select(jobs.c.id, jobs.c.catalogues, jobs.c.line)
            .where(IS_QUEUED, jobs.c.catalogues.is_not(None), jobs.c.id > after)
            .order_by(jobs.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            kinds = self._lines.kinds_of(connection, {row.line for row in rows if row.line is not None})
        files = {line_id: kind.files for line_id, kind in kinds.items()}
        return [
            Pinned(job_id=row.id, catalogues=tuple(row.catalogues.split(",")), files=files.get(row.line, ()))
            for row in rows
        ]

    def graphs(self, job_ids: Sequence[str]) -> dict[str, PinnedGraph]:
        """Return the graphs of jobs by their ids; jobs that are gone are left out."""
        query = select(jobs.c.id, *GRAPH_COLUMNS, jobs.c.inputs).where(jobs.c.id.in_(list(job_ids)))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            graphs = whole_graphs(connection, {row.id: (row.graph, row.shared_graph) for row in rows})
        return {row.id: PinnedGraph(graph=graphs[row.id], **_JUDGED.fields(row)) for row in rows}

    def change(self, changes: Mapping[Pinned, Sequence[str] | None]) -> None:
        """Give jobs other pins, None for none. One that waits no more, or has other pins by now, keeps what it has."""
        pins_of = {pinned.job_id: pins for pinned, pins in changes.items()}
        before_of = {pinned.job_id: ",".join(pinned.catalogues) for pinned in changes}
        moves: dict[tuple[int, str], list[str]] = {}
        for job_id, line_id in self._lines_of(list(pins_of)):
            moves.setdefault((line_id, before_of[job_id]), []).append(job_id)
        for (line_id, before), job_ids in moves.items():
            alike: dict[str | None, list[str]] = {}
            for job_id in job_ids:
                pins = pins_of[job_id]
                alike.setdefault(None if pins is None else ",".join(pins), []).append(job_id)
            for catalogues, moving in alike.items():
                self._move(moving, line_id, before, catalogues)

    def pin(self, claim: Claim, catalogues: Sequence[str]) -> bool:
        """Pin a job that an instance has now, for when it waits again; False when the attempt is stale."""
        pins = ",".join(catalogues)
        found = self._lines_of([claim.job_id])
        line_id = self._line_with(found[0][1], pins) if found else None
        with self._database.write() as transaction:
            done = transaction.connection.execute(
                update(jobs).where(held_by(claim)).values(catalogues=pins, line=line_id)
            )
        return done.rowcount > 0

    def _lines_of(self, job_ids: Sequence[str]) -> list[tuple[str, int]]:
        query = select(jobs.c.id, jobs.c.line).where(jobs.c.id.in_(list(job_ids)), jobs.c.line.is_not(None))
        with self._database.read() as connection:
            return [(row.id, row.line) for row in connection.execute(query)]

    def _line_with(self, line_id: int, catalogues: str | None) -> int | None:
        """Return the line like this one for jobs with other pins."""
        with self._database.read() as connection:
            kind = self._lines.kind_of(connection, line_id)
        return None if kind is None else self._lines.id_of(replace(kind, catalogues=catalogues))

    def _move(self, job_ids: Sequence[str], line_id: int, before: str, catalogues: str | None) -> None:
        other = self._line_with(line_id, catalogues)
        as_before = and_(jobs.c.status == QUEUED, jobs.c.catalogues == before, jobs.c.line == line_id)
        with self._database.write() as transaction:
            moved = transaction.connection.execute(
                update(jobs).where(jobs.c.id.in_(job_ids), as_before).values(catalogues=catalogues, line=other)
            ).rowcount
            transaction.leaves_line(line_id, moved)
            transaction.joins_line(other, moved)

    def fail(self, pinned: Pinned, error: JobError) -> bool:
        """End a job that no instance can run; False if it waits no more, or has other pins by now."""
        with self._database.write() as transaction:
            as_it_was = and_(jobs.c.status == QUEUED, jobs.c.catalogues == ",".join(pinned.catalogues))
            return transition(transaction, pinned.job_id, FAILED, as_it_was, error=error.to_json()) is not None
