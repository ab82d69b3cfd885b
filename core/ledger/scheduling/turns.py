"""Which turns are to be published: for idle instances that would take a job, and the job that each would take."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, literal, select

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.tables import instances, jobs
from core.ledger.instances import SILENCE_MS
from core.ledger.scheduling.avoidance import left_to_others
from core.ledger.scheduling.gates import Gates
from core.ledger.scheduling.learned import LearnedCosts
from core.ledger.scheduling.lines import Lines, WaitingLine
from core.ledger.scheduling.picture import GPU_COLUMNS, IS_ALIVE, GpuRow, Picture
from core.ledger.scheduling.presence import SORT_COLUMNS
from core.records.job import LEASED
from core.scheduling.lines import Decision, Why

#: A turn is taken up within this time, unless its worker is gone.
LATE_MS = 2_000
#: How often the fleet is looked at anew where it changes meanwhile.
LOOKS = 3
#: Idle instances of each sort that are looked at when one job has come, or one was claimed.
LOOKED_AT = 64
#: Idle instances that are woken when one has claimed a job. Each of them wakes as many, so that a fleet is awake soon;
#: were all woken by each, a fleet of a hundred would have ten thousand turns for a hundred jobs.
WOKEN = 2

_BUSY = select(jobs.c.instance).where(jobs.c.status.in_(sorted(LEASED)), jobs.c.instance.is_not(None))
#: Instances that could begin a job now, in one order.
_IS_IDLE = and_(IS_ALIVE, instances.c.name.not_in(_BUSY))
_IDLE = select(*GPU_COLUMNS).where(_IS_IDLE).order_by(instances.c.name)
#: So many of each sort: the first by name may all be of one that can run nothing of what waits.
_numbered = (
    select(*GPU_COLUMNS, func.row_number().over(partition_by=SORT_COLUMNS, order_by=instances.c.name).label("place"))
    .where(_IS_IDLE)
    .subquery()
)
_IDLE_OF_EACH = (
    select(*(_numbered.c[column.name] for column in GPU_COLUMNS))
    .where(_numbered.c.place <= bindparam("of_each"))
    .order_by(_numbered.c.name)
)
_ANY_IDLE = select(literal(1)).where(_IS_IDLE).limit(1)
_LINE_OF = select(jobs.c.line).where(jobs.c.id == bindparam("wanted"), IS_QUEUED)
_FIRST = (
    select(jobs.c.id, jobs.c.updated_at_ms)
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
    #: When the job came, or came back.
    waits_since_ms: int
    #: The line it stands in.
    line_id: int = 0
    #: Why the instance would take it.
    why: Why = "warm"
    #: Whether the job goes through a gate.
    is_gated: bool = False


class Turns:
    """The turns of a fleet, as the ledger sees them."""

    def __init__(self, database: Database, lines: Lines, learned: LearnedCosts, gates: Gates) -> None:
        self._database = database
        self._lines = lines
        self._learned = learned
        self._gates = gates
        #: Whether nobody was idle at the last look.
        self._all_were_busy = False
        #: When the last look at nothing else began that found nobody idle, by `time.monotonic`.
        self._nobody_idle_s = float("-inf")

    def missing(self) -> list[Turn]:
        """Return a turn for each idle instance that would take a job now, whatever became of earlier turns.

        A job that has waited for longer than a turn takes has one more, for another instance: the first one may be
        dead, without anybody knowing yet.
        """
        with self._database.read() as connection:
            first = self._turns(connection)
            late = {turn.job_id for turn in first if turn.waits_since_ms < now_ms() - LATE_MS}
            if not late:
                return first
            asked = {turn.instance for turn in first}
            others = self._turns(connection, without=asked)
            return [*first, *(turn for turn in others if turn.job_id in late)]

    def of(self, job_id: str, *, recorded_s: float | None = None) -> Turn | None:
        """Return the turn of a job that has just come; None when no idle instance would take it now.

        Then one that is at work will, when it looks for its next job. It may be the turn of an older job of its line:
        with the new one there is enough work for an idle instance to load the models.

        Parameters:
          recorded_s: when it stood in the ledger already, by `time.monotonic`. Of many jobs that come at once the look
            for one does for all that were there when it began.
        """
        if recorded_s is not None and recorded_s <= self._nobody_idle_s:
            return None
        began_s = time.monotonic()
        with self._database.read() as connection:
            # Most likely it still is as it was: one look is enough where all are at work.
            if self._all_were_busy and connection.execute(_ANY_IDLE, _heard_lately()).first() is None:
                self._nobody_idle_s = began_s
                return None
            found = self._turns(connection, of_each=LOOKED_AT)
            own = next((turn for turn in found if turn.job_id == job_id), None)
            if own is not None or not found:
                return own
            line_id = connection.execute(_LINE_OF, {"wanted": job_id}).scalar()
        return next((turn for turn in reversed(found) if turn.line_id == line_id and turn.why != "warm"), None)

    def woken(self) -> list[Turn]:
        """Return turns for idle instances that stayed idle rather than load models, and would not any more.

        Asked when an instance has claimed a job: what waits has fewer GPUs from then on. Of many there are turns for
        `WOKEN`: others than those that are woken at the same moment by another claim, most likely.
        """
        with self._database.read() as connection:
            turns = [turn for turn in self._turns(connection, of_each=LOOKED_AT) if turn.why != "warm"]
        return random.sample(turns, min(WOKEN, len(turns)))

    def through_gates(self) -> list[Turn]:
        """Return turns for idle instances that would take jobs which go through gates.

        Asked when a gate may have opened: one of its jobs ended, its limit was raised, or its batch goes on.
        """
        with self._database.read() as connection:
            return [turn for turn in self._turns(connection) if turn.is_gated]

    def _turns(
        self, connection: Connection, *, of_each: int | None = None, without: Collection[str] = ()
    ) -> list[Turn]:
        """Return the turns that are to be published now.

        The lines are read before the idle instances: who claims in between is not taken for idle. Who claims after both
        leaves fewer jobs in a line than were given away, and then all of it is looked at anew.
        """
        turns: list[Turn] = []
        for _ in range(LOOKS):
            waiting = self._lines.waiting(connection)
            if not waiting:
                return []
            idle = idle_instances(connection, of_each)
            self._all_were_busy = not idle
            idle = [row for row in idle if row.name not in without]
            if not idle:
                return []
            turns, is_stale = self._look(connection, waiting, idle)
            if not is_stale:
                break
        return turns

    def _look(
        self, connection: Connection, waiting: Sequence[WaitingLine], idle: Sequence[GpuRow]
    ) -> tuple[list[Turn], bool]:
        """Return turns, and whether a line had fewer jobs than it was taken to have."""
        gates = self._gates.of_lines(connection, waiting)
        picture = Picture(connection, self._lines, self._learned, waiting, gates)
        left = left_to_others(connection, picture)
        avoided = {(job.job_id, job.instance) for job in left}
        losers = {job.instance for job in left}
        # Those that lost a job come last: the others have it first.
        by_choice = sorted(idle, key=lambda row: row.name in losers)
        takers: dict[int, list[tuple[GpuRow, Why]]] = defaultdict(list)
        for row, decision in play_idle(picture, by_choice):
            takers[decision.line.id].append((row, decision.why))
        turns, is_stale = [], False
        for line_id, rows in takers.items():
            heads = list(connection.execute(_FIRST.limit(len(rows) + len(avoided)), {"wanted_line": line_id}))
            is_stale = is_stale or len(heads) < len(rows)
            for row, why in rows:
                head = next((each for each in heads if (each.id, row.name) not in avoided), None)
                if head is not None:
                    heads.remove(head)
                    turns.append(
                        Turn(
                            job_id=head.id,
                            instance=row.name,
                            has_queue=row.has_queue,
                            waits_since_ms=head.updated_at_ms,
                            line_id=line_id,
                            why=why,
                            is_gated=line_id in gates,
                        )
                    )
        return turns, is_stale


def idle_instances(connection: Connection, of_each: int | None = None) -> list[GpuRow]:
    """Return healthy instances that have no job, by name. Parameters: of_each - so many of each sort at most."""
    if of_each is None:
        rows = connection.execute(_IDLE, _heard_lately())
    else:
        rows = connection.execute(_IDLE_OF_EACH, {**_heard_lately(), "of_each": of_each})
    return [GpuRow(**row._mapping) for row in rows]


def _heard_lately() -> dict[str, int]:
    return {"heard_since_ms": now_ms() - SILENCE_MS}


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
    return row.catalogue, row.pool, row.vram_bytes, row.memory_bytes, row.device, row.kind, held, row.given_up
