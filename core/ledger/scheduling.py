"""The scheduling policy: the order of the queue, which waiting jobs fit an instance, and which of them it runs next.

The one place for all three. Whatever asks about them elsewhere (a job's place in the queue, how long it has to wait,
which turns are missing) asks with these functions; only the index `jobs_turn` of `core.ledger.database.tables` spells
the order again, for databases want it so.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    ScalarSelect,
    Select,
    String,
    and_,
    bindparam,
    func,
    literal,
    or_,
    select,
)

from core.clock import now_ms
from core.ledger.database.connections import Transaction
from core.ledger.database.tables import instances, jobs
from core.ledger.instances import HEALTHY, SILENCE_MS, is_alive
from core.records.job import LEASED, QUEUED

#: A job that was lost on one instance is left to others for this long; then any may have it.
AVOID_MS = 60_000
#: The priority of a job that asks for none.
USUAL_PRIORITY = 0

#: A job's place in the order of the queue; the smaller one runs sooner.
Rank: TypeAlias = tuple[int, int, str]
#: Digests of the catalogues of the instances a job may run on; None means any.
Accepted: TypeAlias = frozenset[str] | None
#: The digest of one instance's catalogue, in a statement.
_Catalogue: TypeAlias = ColumnElement[Any] | ScalarSelect[Any]


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


def runs_on(*catalogues: _Catalogue) -> ColumnElement[bool]:
    """Return the condition that an instance with one of these catalogues can run a job."""
    return or_(jobs.c.catalogues.is_(None), *(jobs.c.catalogues.contains(catalogue) for catalogue in catalogues))


def fits(*catalogues: _Catalogue) -> ColumnElement[bool]:
    """Return the condition that a job waits, and an instance with one of these catalogues can run it."""
    return and_(jobs.c.status == QUEUED, runs_on(*catalogues))


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
        runs_on(_other.c.catalogue),
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
_FITS_OWN = and_(~_IS_BARRED, fits(_OWN_CATALOGUE), _IS_OURS_TO_TRY)
_BEST = select(jobs.c.id, jobs.c.priority).where(_FITS_OWN).order_by(*queue_order()).limit(1)
#: Which instances run or hold a job.
_BUSY = select(jobs.c.instance).where(jobs.c.status.in_(sorted(LEASED)), jobs.c.instance.is_not(None))
_ALIVE = select(instances.c.name, instances.c.catalogue, instances.c.name.not_in(_BUSY).label("is_idle"))
_NAMED = select(jobs.c.id).where(jobs.c.id == bindparam("wanted"), _FITS_OWN, jobs.c.priority >= bindparam("priority"))


def choose(transaction: Transaction, instance: str, named: str | None, worker: str | None = None) -> str | None:
    """Return the next job for an instance, locked: the highest priority, then `named`, then the oldest.

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
    """Return whether more jobs wait than there are idle healthy instances."""
    waiting = select(jobs.c.id).where(jobs.c.status == QUEUED).limit(65).subquery()
    idle = select(func.count()).select_from(instances).where(is_alive(), instances.c.name.not_in(_BUSY))
    connection = transaction.connection
    waiting_count = connection.execute(select(func.count()).select_from(waiting)).scalar_one()
    return waiting_count > 0 and waiting_count > connection.execute(idle).scalar_one()


def missing_turns(connection: Connection) -> list[str]:
    """Return the job of each turn to be published for idle instances that suit waiting jobs; may repeat one.

    As many as there are idle instances, for nobody can say which of them takes a turn up, or none at all. What suits
    is `_FITS_OWN`, asked once for all instances and not for each: fleets have many of those and few catalogues.
    """
    alive = connection.execute(_ALIVE.where(is_alive())).all()
    idle = [each for each in alive if each.is_idle]
    if not idle:
        return []
    fitting = fits(*(literal(digest) for digest in _catalogues(idle)))
    avoided = and_(jobs.c.lost_on.in_([each.name for each in idle]), jobs.c.updated_at_ms >= now_ms() - AVOID_MS)
    query = (
        select(jobs.c.id, jobs.c.lost_on, jobs.c.catalogues).where(fitting).order_by(*queue_order()).limit(len(idle))
    )
    found = [row.id for row in connection.execute(query.where(or_(jobs.c.lost_on.is_(None), ~avoided)))]
    if not found:
        found = [row.id for row in connection.execute(query.where(avoided)) if _may_try(row, idle, alive)]
    return list(itertools.islice(itertools.cycle(found), len(idle)))


def _catalogues(instances_: Sequence[Row[Any]]) -> list[str]:
    return sorted({each.catalogue for each in instances_ if each.catalogue is not None})


def _may_try(job: Row[Any], idle: Sequence[Row[Any]], alive: Sequence[Row[Any]]) -> bool:
    """Whether an idle instance may have a job that one of them has just lost: another one, or the only one there is."""
    accepted = accepted_of(job.catalogues)
    able = [each.name for each in alive if accepted is None or each.catalogue in accepted]
    others = [name for name in able if name != job.lost_on]
    return not others or any(each.name in others for each in idle)


def _locked(transaction: Transaction, query: Select[Any]) -> Select[Any]:
    """Lock the rows found, passing over those another claim holds. SQLite has one writer at a time anyway."""
    return query if transaction.is_sqlite else query.with_for_update(of=jobs, skip_locked=True)
