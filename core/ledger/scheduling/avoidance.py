"""Jobs that an instance lost a short while ago: others had better try them, if any of them can."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select

from core.clock import now_ms
from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.tables import jobs
from core.ledger.scheduling.picture import Picture

#: A job that was lost on one instance is left to others for this long; then any may have it.
AVOID_MS = 60_000

_LOST = select(jobs.c.id, jobs.c.lost_on, jobs.c.line).where(
    IS_QUEUED, jobs.c.lost_on.is_not(None), jobs.c.updated_at_ms >= bindparam("avoided_since_ms")
)


@dataclass(frozen=True, slots=True)
class LostJob:
    """A job that waits, and the instance that lost it."""

    job_id: str
    instance: str
    line_id: int


def left_to_others(connection: Connection, picture: Picture) -> Collection[LostJob]:
    """Return the jobs that were lost lately where another instance can run them, and see that they are left to others.

    An instance that lost all that waits in a line counts no more as one that holds the models of that: the others would
    leave it the jobs that it leaves to them.
    """
    lost = connection.execute(_LOST, {"avoided_since_ms": now_ms() - AVOID_MS}).all()
    left = [
        LostJob(str(job.id), str(job.lost_on), job.line)
        for job in lost
        if job.line is not None and picture.suits_another(job.line, job.lost_on)
    ]
    counts = Counter((job.instance, job.line_id) for job in left)
    of_no_use: dict[str, set[int]] = defaultdict(set)
    for (instance, line_id), count in counts.items():
        if count >= picture.waiting_in(line_id):
            of_no_use[instance].add(line_id)
    picture.count_without(of_no_use)
    return left
