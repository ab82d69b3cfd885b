"""The jobs that are next in each line, and where in its line a job stands: bounded reads, however long the queue is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    String,
    and_,
    bindparam,
    func,
    lateral,
    literal_column,
    select,
    true,
    tuple_,
)

from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.tables import jobs, lines
from core.ledger.durations import CHUNK
from core.records.job import QUEUED

#: Jobs looked at one by one, over all lines, and of one line.
LOOK, LOOK_OF_LINE = 1_000, 500
#: Places in one line that are counted one by one; beyond so many, all jobs between the first and the last are numbered.
FEW = 8


class HeadJob(NamedTuple):
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


_COLUMNS = tuple(_column(name) for name in HeadJob._fields)
_IN_ORDER = (jobs.c.created_at_ms, jobs.c.id)
_others = jobs.alias("others")
_IDS = (
    select(_others.c.id)
    .where(_others.c.line == lines.c.id, _others.c.status == literal_column(f"'{QUEUED}'"))
    .order_by(_others.c.created_at_ms, _others.c.id)
    .limit(bindparam("of_line"))
    .correlate(lines)
)
_next = lateral(_IDS, "next_jobs")
#: PostgreSQL looks into each line by itself only if it is told to, and SQLite does without.
_HEADS = select(*_COLUMNS).select_from(lines.join(_next, true()).join(jobs, jobs.c.id == _next.c.id))
_HEADS_OF_SQLITE = select(*_COLUMNS).select_from(lines.join(jobs, jobs.c.id.in_(_IDS)))
_NEWEST = select(
    lines.c.id,
    select(func.max(jobs.c.created_at_ms))
    .where(jobs.c.line == lines.c.id, IS_QUEUED)
    .correlate(lines)
    .scalar_subquery(),
).where(lines.c.waiting > 0)
#: The order of a line, as its index has it.
_PLACE = tuple_(*_IN_ORDER)
_WAITS_IN_LINE = and_(jobs.c.line == bindparam("wanted_line"), IS_QUEUED)
_FIRST = tuple_(bindparam("first_ms", type_=BigInteger), bindparam("first_id", type_=String))
_LAST = tuple_(bindparam("last_ms", type_=BigInteger), bindparam("last_id", type_=String))
_BEFORE = select(func.count()).where(_WAITS_IN_LINE, _PLACE < _FIRST)
_PLACES = select(jobs.c.line, jobs.c.id, jobs.c.created_at_ms).where(IS_QUEUED)
_NUMBERED = (
    select(jobs.c.id, func.row_number().over(order_by=_IN_ORDER).label("number"))
    .where(_WAITS_IN_LINE, _PLACE >= _FIRST, _PLACE <= _LAST)
    .subquery()
)
_NUMBERS = select(_NUMBERED.c.id, _NUMBERED.c.number).where(_NUMBERED.c.id.in_(bindparam("wanted", expanding=True)))


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What is known of the jobs of each line."""

    #: The next ones, in order; all of them where there are no more than were looked at.
    jobs: Mapping[int, Sequence[HeadJob]]
    #: When the newest one came, in milliseconds.
    newest_ms: Mapping[int, int]


def read_heads(connection: Connection, line_ids: Sequence[int]) -> Heads:
    """Return the jobs at the head of these lines, which are those that had jobs a moment ago.

    Lines that somebody has begun to wait in since then are left out: the rest of a look knows nothing of them.
    """
    if not line_ids:
        return Heads(jobs={}, newest_ms={})
    known = frozenset(line_ids)
    of_line = max(1, min(LOOK_OF_LINE, LOOK // len(line_ids)))
    found: dict[int, list[HeadJob]] = defaultdict(list)
    heads = _HEADS_OF_SQLITE if connection.dialect.name == "sqlite" else _HEADS
    rows = connection.execute(heads.where(lines.c.waiting > 0), {"of_line": of_line})
    for row in sorted(rows, key=lambda row: (row[2], row[1])):
        if row[0] in known:
            found[row[0]].append(HeadJob(*row))
    newest = {line: newest_ms for line, newest_ms in connection.execute(_NEWEST) if newest_ms is not None}
    return Heads(jobs=found, newest_ms=newest)


def read_indexes(connection: Connection, job_ids: Collection[str]) -> dict[str, tuple[int, int]]:
    """Return line and index of waiting jobs, the head of a line having index 0; those that do not wait are left out."""
    places: dict[int, list[tuple[int, str]]] = defaultdict(list)
    wanted = sorted(job_ids)
    for start in range(0, len(wanted), CHUNK):
        for line, job_id, came_ms in connection.execute(_PLACES.where(jobs.c.id.in_(wanted[start : start + CHUNK]))):
            if line is not None:
                places[line].append((came_ms, job_id))
    found: dict[str, tuple[int, int]] = {}
    for line, of_line in places.items():
        of_line.sort()
        size = 1 if len(of_line) <= FEW else CHUNK
        for start in range(0, len(of_line), size):
            found |= _numbered(connection, line, of_line[start : start + size])
    return found


def _numbered(connection: Connection, line: int, asked: Sequence[tuple[int, str]]) -> dict[str, tuple[int, int]]:
    """Return line and index of jobs of a line, which come in its order: those before are counted, and those between."""
    (first_ms, first_id), (last_ms, last_id) = asked[0], asked[-1]
    who = {"wanted_line": line, "first_ms": first_ms, "first_id": first_id}
    before: int = connection.execute(_BEFORE, who).scalar_one()
    if len(asked) == 1:
        return {first_id: (line, before)}
    until = {"last_ms": last_ms, "last_id": last_id, "wanted": [job_id for _, job_id in asked]}
    rows = connection.execute(_NUMBERS, who | until)
    return {row.id: (line, before + row.number - 1) for row in rows}
