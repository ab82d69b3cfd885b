"""The order of waiting jobs by priority and age: for lists and estimates.

Only the index `jobs_turn` of `core.ledger.database.tables` spells the order again, for databases want it so.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

from sqlalchemy import ColumnElement, FromClause, and_, or_

from core.ledger.database.tables import jobs

#: The priority of a job that asks for none.
USUAL_PRIORITY = 0

#: A job's place in the order of the queue; the smaller one runs sooner.
Rank: TypeAlias = tuple[int, int, str]
#: Digests of the catalogues of the instances a job may run on; None means any.
Accepted: TypeAlias = frozenset[str] | None


class Ranked(Protocol):
    """What the order of the queue looks at: of a job, of a row, or (as columns) of a table."""

    @property
    def priority(self) -> Any: ...
    @property
    def created_at_ms(self) -> Any: ...
    @property
    def id(self) -> Any: ...


def rank_of(job: Ranked) -> Rank:
    """Return the rank of a job: the highest priority first, then the oldest, then by id."""
    return (-job.priority, job.created_at_ms, job.id)


def rank_of_new(now: int) -> Rank:
    """Return the rank behind all jobs of the usual priority that have come by now (milliseconds since 1970)."""
    return (-USUAL_PRIORITY, now + 1, "")


def queue_order() -> tuple[ColumnElement[Any], ...]:
    """Return what a statement sorts jobs by to have them in the order of `rank_of`."""
    return (jobs.c.priority.desc(), jobs.c.created_at_ms, jobs.c.id)


def comes_before(job: Ranked, queue: FromClause = jobs) -> ColumnElement[bool]:
    """Return the condition that a row of the queue has a smaller rank than a job.

    Parameters:
      job: a job, or the columns of a table of jobs other than `queue`.
    """
    row = queue.c
    return or_(
        row.priority > job.priority,
        and_(row.priority == job.priority, row.created_at_ms < job.created_at_ms),
        and_(row.priority == job.priority, row.created_at_ms == job.created_at_ms, row.id < job.id),
    )


def accepted_of(catalogues: str | None) -> Accepted:
    """Return which catalogues a job accepts, from its column `catalogues`."""
    return None if catalogues is None else frozenset(catalogues.split(","))
