"""Which waiting job an instance runs next."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, Select, String, and_, bindparam, func, or_, select

from core.job import LEASED, QUEUED
from core.ledger.database import Transaction, now_ms
from core.ledger.instances import HEALTHY, SILENCE_MS, is_alive
from core.ledger.tables import instances, jobs

#: A job that was lost on one instance is left to others for this long; then any may have it.
AVOID_MS = 60_000


def _runs_on(catalogue: ColumnElement[Any] | ScalarSelect[Any]) -> ColumnElement[bool]:
    """An instance with these nodes can run the job."""
    return or_(jobs.c.catalogues.is_(None), jobs.c.catalogues.contains(catalogue))


# Statements on the path between two jobs of a GPU, built once: building one takes longer than running it.
_own = instances.alias("own")
_other = instances.alias("other")
_OWN_CATALOGUE = select(_own.c.catalogue).where(_own.c.name == bindparam("instance")).scalar_subquery()
#: An instance that is known and not healthy takes nothing, whichever way a claim comes about; nor does a worker from
#: which another one has taken the instance's name.
_IS_ANOTHERS = _own.c.worker != func.coalesce(bindparam("worker", type_=String), _own.c.worker)
_IS_BARRED = (
    select(_own.c.name).where(_own.c.name == bindparam("instance"), or_(_own.c.state != HEALTHY, _IS_ANOTHERS)).exists()
)
_SUITS_ANOTHER = (
    select(_other.c.name)
    .where(
        _other.c.name != bindparam("instance"),
        _other.c.state == HEALTHY,
        _other.c.heartbeat_at_ms > bindparam("heard_since_ms"),
        _runs_on(_other.c.catalogue),
    )
    .correlate(jobs)
    .exists()
)
_IS_OURS_TO_TRY = or_(
    jobs.c.lost_on.is_(None),
    jobs.c.lost_on != bindparam("instance"),
    jobs.c.updated_at_ms < bindparam("avoided_since_ms"),
    ~_SUITS_ANOTHER,
)
_FITS = and_(
    jobs.c.status == QUEUED,
    ~_IS_BARRED,
    _runs_on(_OWN_CATALOGUE),
    _IS_OURS_TO_TRY,
)
_BEST = (
    select(jobs.c.id, jobs.c.priority)
    .where(_FITS)
    .order_by(jobs.c.priority.desc(), jobs.c.created_at_ms, jobs.c.id)
    .limit(1)
)
_NAMED = select(jobs.c.id).where(jobs.c.id == bindparam("wanted"), _FITS, jobs.c.priority >= bindparam("priority"))


def choose(transaction: Transaction, instance: str, named: str | None, worker: str | None = None) -> str | None:
    """The next job for an instance, locked: the highest priority, then `named`, then the oldest.

    Nothing for a worker that has lost the instance's name. Left out are jobs its nodes do not fit, and for a minute
    those it lost itself, if another instance could run them.
    """
    connection = transaction.connection
    now = now_ms()
    who: dict[str, Any] = {"instance": instance, "worker": worker}
    who |= {"heard_since_ms": now - SILENCE_MS, "avoided_since_ms": now - AVOID_MS}
    if named is not None:
        # Only what is taken is locked: a row locked and then left would look taken to everybody else.
        highest = connection.execute(_BEST, who).one_or_none()
        if highest is None:
            return None
        as_good = who | {"wanted": named, "priority": highest.priority}
        taken = connection.execute(_locked(transaction, _NAMED), as_good).scalar()
        if taken is not None:
            return str(taken)
    first = connection.execute(_locked(transaction, _BEST), who).first()
    return None if first is None else str(first.id)


def is_surplus(transaction: Transaction) -> bool:
    """Whether more jobs wait than there are idle healthy instances."""
    waiting = select(jobs.c.id).where(jobs.c.status == QUEUED).limit(65).subquery()
    busy = select(jobs.c.instance).where(jobs.c.status.in_(sorted(LEASED)), jobs.c.instance.is_not(None))
    idle = select(func.count()).select_from(instances).where(is_alive(), instances.c.name.not_in(busy))
    connection = transaction.connection
    waiting_count = connection.execute(select(func.count()).select_from(waiting)).scalar_one()
    return waiting_count > 0 and waiting_count > connection.execute(idle).scalar_one()


def _locked(transaction: Transaction, query: Select[Any]) -> Select[Any]:
    """Lock the rows found, passing over those another claim holds. SQLite has one writer at a time anyway."""
    return query if transaction.is_sqlite else query.with_for_update(of=jobs, skip_locked=True)
