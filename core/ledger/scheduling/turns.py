"""Which turns are to be published: for idle instances that would take a job, and the job that each would take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.tables import instances, jobs
from core.ledger.instances import HEALTHY, SILENCE_MS
from core.ledger.scheduling.learned import LearnedCosts
from core.ledger.scheduling.lines import Lines
from core.ledger.scheduling.picture import GPU_COLUMNS, GpuRow, Picture
from core.records.job import LEASED
from core.scheduling.lines import Decision

#: Idle instances that are looked at when one job has come.
LOOKED_AT = 64

_BUSY = select(jobs.c.instance).where(jobs.c.status.in_(sorted(LEASED)), jobs.c.instance.is_not(None))
#: Instances that could begin a job now, in one order.
_IDLE = (
    select(*GPU_COLUMNS)
    .where(
        instances.c.state == HEALTHY,
        instances.c.heartbeat_at_ms > bindparam("heard_since_ms"),
        instances.c.name.not_in(_BUSY),
    )
    .order_by(instances.c.name)
)
_LINE_OF = select(jobs.c.line).where(jobs.c.id == bindparam("wanted"), IS_QUEUED)
_FIRST = (
    select(jobs.c.id)
    .where(jobs.c.line == bindparam("wanted_line"), IS_QUEUED)
    .order_by(jobs.c.created_at_ms, jobs.c.id)
)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What is to be published: the instance that takes a job, and which one it is likely to take."""

    job_id: str
    instance: str
    #: Whether its worker listens to a queue of its own.
    has_queue: bool


class Turns:
    """The turns of a fleet, as the ledger sees them."""

    def __init__(self, database: Database, lines: Lines, learned: LearnedCosts) -> None:
        self._database = database
        self._lines = lines
        self._learned = learned

    def missing(self) -> list[Turn]:
        """Return a turn for each idle instance that would take a job now, whatever became of earlier turns."""
        with self._database.read() as connection:
            return self._turns(connection, None)

    def of(self, job_id: str) -> Turn | None:
        """Return the turn of a job that has just come; None when no idle instance would take it now.

        Then one that is at work will, when it looks for its next job.
        """
        with self._database.read() as connection:
            line_id = connection.execute(_LINE_OF, {"wanted": job_id}).scalar()
            if line_id is None:
                return None
            found = [turn for turn in self._turns(connection, LOOKED_AT) if turn.job_id == job_id]
        return found[0] if found else None

    def _turns(self, connection: Connection, limit: int | None) -> list[Turn]:
        idle = idle_instances(connection, limit)
        if not idle:
            return []
        waiting = self._lines.waiting(connection)
        if not waiting:
            return []
        played = play_idle(Picture(connection, self._lines, self._learned, waiting), idle)
        takers: dict[int, list[GpuRow]] = defaultdict(list)
        for row, decision in played:
            takers[decision.line.id].append(row)
        turns = []
        for line_id, rows in takers.items():
            heads = connection.execute(_FIRST.limit(len(rows)), {"wanted_line": line_id}).scalars().all()
            turns += [
                Turn(job_id=job_id, instance=row.name, has_queue=row.has_queue)
                for job_id, row in zip(heads, rows, strict=False)
            ]
        return turns


def idle_instances(connection: Connection, limit: int | None = None) -> list[GpuRow]:
    """Return healthy instances that have no job, by name."""
    rows = connection.execute(_IDLE.limit(limit), {"heard_since_ms": now_ms() - SILENCE_MS})
    return [GpuRow(**row._mapping) for row in rows]


def play_idle(picture: Picture, idle: Sequence[GpuRow]) -> list[tuple[GpuRow, Decision]]:
    """Let idle instances take what they would take, one after the other; return those that take something."""
    played: list[tuple[GpuRow, Decision]] = []
    #: Instances of which one takes nothing; the others like it would not either, until something changes.
    content: set[tuple[Any, ...]] = set()
    for row in idle:
        if picture.is_empty:
            break
        alike = _sort_of(row)
        if alike in content:
            continue
        decision = picture.decide(picture.gpu(row), picture.lines_for(row))
        if decision is None:
            content.add(alike)
            continue
        picture.take(decision)
        played.append((row, decision))
        content.clear()
    return played


def _sort_of(row: GpuRow) -> tuple[Any, ...]:
    held = tuple(name for name, _ in row.held or ())
    return row.catalogue, row.pool, row.vram_bytes, row.memory_bytes, row.device, row.kind, held
