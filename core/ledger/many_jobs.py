"""Many jobs at once, by what they have in common: counted, and cancelled some at a time.

Nothing is kept between two calls: what is left is found anew, so that whoever was interrupted goes on by asking again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, or_, select

from core.ledger.access.owned import is_owned
from core.ledger.database.connections import Database
from core.ledger.database.rows import job_of
from core.ledger.database.tables import jobs
from core.ledger.sealing import Sealer
from core.ledger.transitions import transition
from core.records.job import CANCELED, CANCELING, DELIVERING, QUEUED, RUNNING, Job, Status

#: From which statuses a job can be cancelled that nobody has cancelled yet, in the order of the life cycle.
CANCELLABLE: tuple[Status, ...] = (QUEUED, RUNNING, DELIVERING)
#: Sets the marks of confirmations apart from those of requests.
_CONFIRMS = b"bulk\n"


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """What jobs have in common. None of them was submitted at `until_ms` or later."""

    statuses: tuple[Status, ...]
    #: Or `ALL_TENANTS`.
    tenant: str
    until_ms: int
    from_ms: int | None = None
    label: str | None = None
    template: str | None = None
    batch: str | None = None
    #: When they were counted: what has come since, and what has ended since, is not meant. None: they are counted now.
    counted_at_ms: int | None = None


class Bulk:
    """What is done with many jobs at once, for the API."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    def mark(self, text: str) -> str:
        """Return what proves later that a text was ours."""
        return self._sealer.mark(_CONFIRMS + text.encode())

    def is_mark(self, text: str, mark: str) -> bool:
        """Return whether a mark was made of this text by a process of the fleet."""
        return self._sealer.is_mark(_CONFIRMS + text.encode(), mark)

    def count(self, wanted: JobFilter) -> dict[Status, int]:
        """Return how many jobs of each status are meant; statuses of none are left out."""
        query = select(jobs.c.status, func.count().label("jobs")).where(*_conditions(wanted)).group_by(jobs.c.status)
        with self._database.read() as connection:
            return {row.status: row.jobs for row in connection.execute(query)}

    def ids(self, wanted: JobFilter, *, limit: int) -> list[str]:
        """Return the ids of some of the jobs."""
        query = select(jobs.c.id).where(*_conditions(wanted)).limit(limit)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def cancel_some(self, wanted: JobFilter, *, limit: int, hold_s: float) -> list[Job]:
        """Cancel some of the jobs in one transaction; returns them as they are then, without their outputs.

        Jobs that somebody else is about to move are left for another call.

        Parameters:
          limit: no more of them.
          hold_s: after so long no further one: others want to write, GPU workers above all.
        """
        found = select(jobs.c.id).where(*_conditions(wanted), jobs.c.status.in_(CANCELLABLE))
        with self._database.read() as connection:
            near = connection.execute(found.order_by(jobs.c.created_at_ms, jobs.c.id).limit(limit)).scalars().all()
        if not near:
            return []
        moved = []
        with self._database.write() as transaction:
            until_s = time.monotonic() + hold_s
            # Locked, so that they stay in the status that says which move is theirs.
            free = select(jobs.c.id, jobs.c.status).where(jobs.c.id.in_(near)).with_for_update(skip_locked=True)
            for job_id, status in transaction.connection.execute(free).all():
                if status in CANCELLABLE:
                    row = transition(transaction, job_id, CANCELING if status == RUNNING else CANCELED)
                    moved += [job_of(row)] if row is not None else []
                if time.monotonic() >= until_s:
                    break
        return moved


def _conditions(wanted: JobFilter) -> list[ColumnElement[bool]]:
    conditions = [
        is_owned(jobs.c.tenant, wanted.tenant),
        jobs.c.status.in_(wanted.statuses),
        jobs.c.created_at_ms < wanted.until_ms,
    ]
    if wanted.counted_at_ms is not None:
        conditions.append(jobs.c.created_at_ms < wanted.counted_at_ms)
        conditions.append(or_(jobs.c.completed_at_ms.is_(None), jobs.c.completed_at_ms < wanted.counted_at_ms))
    if wanted.from_ms is not None:
        conditions.append(jobs.c.created_at_ms >= wanted.from_ms)
    same = {jobs.c.label: wanted.label, jobs.c.workflow: wanted.template, jobs.c.batch: wanted.batch}
    return [*conditions, *(column == value for column, value in same.items() if value is not None)]
