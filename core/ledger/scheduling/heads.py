"""The jobs that are next in each line, and where in its line a job stands: bounded reads, however long the queue is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, lateral, or_, select, true

from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.tables import jobs, lines
from core.ledger.durations import CHUNK

#: Jobs looked at one by one, over all lines, and of one line.
LOOK, LOOK_OF_LINE = 1_000, 100
#: Places in one line that are counted one by one; beyond so many, all jobs of the line are numbered.
FEW = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadJob:
    """One of the jobs that are next in their line."""

    line: int
    id: str
    created_at_ms: int
    start_by_ms: int | None
    shape: str | None
    template: str | None
    expected_time_s: float | None


def _column(name: str) -> Any:
    return jobs.c.workflow.label("template") if name == "template" else jobs.c[name]


_COLUMNS = tuple(_column(field.name) for field in fields(HeadJob))
_IN_ORDER = (jobs.c.created_at_ms, jobs.c.id)
_inner = jobs.alias("inner_jobs")
_NEXT = (
    select(*_COLUMNS)
    .where(jobs.c.line == lines.c.id, IS_QUEUED)
    .order_by(*_IN_ORDER)
    .limit(bindparam("of_line"))
    .correlate(lines)
)
_next = lateral(_NEXT, "next_jobs")
_HEADS = select(*_next.c).select_from(lines.join(_next, true())).where(lines.c.waiting > 0)
#: SQLite has no lateral joins: line by line, prepared once.
_HEADS_OF_ONE = (
    select(*_COLUMNS)
    .where(jobs.c.line == bindparam("wanted_line"), IS_QUEUED)
    .order_by(*_IN_ORDER)
    .limit(bindparam("of_line"))
)
_NEWEST = select(
    lines.c.id,
    select(func.max(jobs.c.created_at_ms))
    .where(jobs.c.line == lines.c.id, IS_QUEUED)
    .correlate(lines)
    .scalar_subquery(),
).where(lines.c.waiting > 0)
_BEFORE = select(func.count()).where(
    jobs.c.line == bindparam("wanted_line"),
    IS_QUEUED,
    or_(
        jobs.c.created_at_ms < bindparam("came_ms"),
        and_(jobs.c.created_at_ms == bindparam("came_ms"), jobs.c.id < bindparam("wanted")),
    ),
)
_PLACES = select(jobs.c.line, jobs.c.id, jobs.c.created_at_ms).where(IS_QUEUED)
_NUMBERED = (
    select(jobs.c.id, func.row_number().over(order_by=_IN_ORDER).label("number"))
    .where(jobs.c.line == bindparam("wanted_line"), IS_QUEUED)
    .subquery()
)


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What is known of the jobs of each line."""

    #: The next ones, in order; all of them where there are no more than were looked at.
    jobs: Mapping[int, Sequence[HeadJob]]
    #: When the newest one came, in milliseconds.
    newest_ms: Mapping[int, int]


def read_heads(connection: Connection, line_ids: Sequence[int]) -> Heads:
    """Return the jobs at the head of these lines, which are those that have jobs."""
    if not line_ids:
        return Heads(jobs={}, newest_ms={})
    of_line = max(1, min(LOOK_OF_LINE, LOOK // len(line_ids)))
    found: dict[int, list[HeadJob]] = defaultdict(list)
    for row in _rows(connection, line_ids, of_line):
        found[row[0]].append(
            HeadJob(
                line=row[0],
                id=row[1],
                created_at_ms=row[2],
                start_by_ms=row[3],
                shape=row[4],
                template=row[5],
                expected_time_s=row[6],
            )
        )
    newest = {line: newest_ms for line, newest_ms in connection.execute(_NEWEST) if newest_ms is not None}
    return Heads(jobs=found, newest_ms=newest)


def _rows(connection: Connection, line_ids: Sequence[int], of_line: int) -> Iterable[Any]:
    if connection.dialect.name != "sqlite":
        yield from connection.execute(_HEADS, {"of_line": of_line})
        return
    for line_id in line_ids:
        yield from connection.execute(_HEADS_OF_ONE, {"wanted_line": line_id, "of_line": of_line})


def read_indexes(connection: Connection, job_ids: Collection[str]) -> dict[str, tuple[int, int]]:
    """Return line and index of waiting jobs, the head of a line having index 0; those that do not wait are left out."""
    places: dict[int, list[tuple[str, int]]] = defaultdict(list)
    wanted = sorted(job_ids)
    for start in range(0, len(wanted), CHUNK):
        for line, job_id, came_ms in connection.execute(_PLACES.where(jobs.c.id.in_(wanted[start : start + CHUNK]))):
            if line is not None:
                places[line].append((job_id, came_ms))
    found: dict[str, tuple[int, int]] = {}
    for line, of_line in places.items():
        if len(of_line) <= FEW:
            for job_id, came_ms in of_line:
                who = {"wanted_line": line, "wanted": job_id, "came_ms": came_ms}
                found[job_id] = line, connection.execute(_BEFORE, who).scalar_one()
            continue
        for start in range(0, len(of_line), CHUNK):
            asked = [job_id for job_id, _ in of_line[start : start + CHUNK]]
            numbers = select(_NUMBERED).where(_NUMBERED.c.id.in_(asked))
            found |= {row.id: (line, row.number - 1) for row in connection.execute(numbers, {"wanted_line": line})}
    return found
