"""The outbox: webhooks on their way out, each with its next try, until it has arrived or is given up.

Two processes never send one delivery at once: `take` is a compare-and-set that counts the try, and what a sender
reports counts only for the try it took. A sender that died holds what it took for a while; then it is due again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, and_, bindparam, delete, insert, select, update

from core.clock import now_ms
from core.ledger.database.batch_tables import batches
from core.ledger.database.connections import Database
from core.ledger.database.stored_fields import record_from
from core.ledger.database.tables import deliveries, delivery_attempts, jobs
from core.ledger.webhooks.outbox_writer import DEAD, DELIVERED, PENDING, SENDING
from core.ledger.webhooks.retry_schedule import next_try_ms
from core.metrics.counted import WEBHOOK_DELIVERY, WEBHOOK_TRIES, WEBHOOKS_ENDED
from core.metrics.tally import Tally
from core.records.batch import BATCH_PROGRESS
from core.records.job import ContractName
from core.records.webhook_events import PROGRESS
from core.records.webhook_target import WebhookTarget

#: Beyond the longest a try may take, a sender that has not reported is taken for dead after this.
MARGIN_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Due:
    """A delivery that may be tried now, by whoever takes it."""

    id: str
    job_id: str
    #: Scheme, host and port of its URL.
    receiver: str
    #: The batch that it tells of, and not of the job.
    batch: str | None = None


@dataclass(frozen=True, kw_only=True)
class Post:
    """One try at a delivery, ours to make."""

    id: str
    job_id: str
    contract: ContractName
    event: str
    #: Number of the job's event it tells of.
    seq: int
    url: str
    receiver: str
    body: str
    timeout_s: float
    #: This one included; the fencing token of what is reported of it.
    tries: int
    webhook: WebhookTarget
    #: As in `Due`.
    batch: str | None = None
    #: Of the job that it tells of, or by way of which.
    tenant: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, kw_only=True)
class TryResult:
    """How one try ended."""

    at_ms: int
    duration_ms: int
    status_code: int | None = None
    #: Why it counts as failed; None: it arrived.
    error: str | None = None
    #: The receiver wants no earlier try than in so many seconds.
    retry_after_s: float | None = None
    #: Another try is of no use.
    is_final: bool = False


# On the path of every webhook, so built once.
_IS_DUE = deliveries.c.next_try_at_ms <= bindparam("now")
_DUE = select(deliveries.c.id, deliveries.c.job_id, deliveries.c.receiver, deliveries.c.batch).where(_IS_DUE)
_IN_ORDER = (deliveries.c.next_try_at_ms, deliveries.c.seq)
_WANTED: BindParameter[Any] = bindparam("wanted", expanding=True)
_WEBHOOKS = select(jobs.c.id, jobs.c.webhook, jobs.c.traceparent, jobs.c.tenant).where(jobs.c.id.in_(_WANTED))
_BATCH_WEBHOOKS = select(batches.c.id, batches.c.webhook).where(batches.c.id.in_(bindparam("wanted", expanding=True)))
_TAKE = (
    update(deliveries)
    .where(
        deliveries.c.id.in_(
            # Senders skip what others are taking, instead of waiting for each other.
            select(deliveries.c.id)
            .where(deliveries.c.id.in_(bindparam("wanted", expanding=True)), _IS_DUE)
            .with_for_update(skip_locked=True)
        )
    )
    .values(
        state=SENDING,
        tries=deliveries.c.tries + 1,
        next_try_at_ms=bindparam("held_until"),
        updated_at_ms=bindparam("now"),
    )
    .returning(deliveries)
)
_UNDER_WAY = (
    select(
        deliveries.c.id,
        deliveries.c.tries,
        (deliveries.c.tries - deliveries.c.tries_before).label("tries_made"),
        deliveries.c.created_at_ms,
    )
    .where(deliveries.c.id.in_(bindparam("wanted", expanding=True)), deliveries.c.state == SENDING)
    # In one order for everybody, so that no two wait for each other.
    .order_by(deliveries.c.id)
    .with_for_update()
)
_GIVE_BACK = (
    update(deliveries)
    .where(
        deliveries.c.id == bindparam("own_id"),
        deliveries.c.tries == bindparam("own_try"),
        deliveries.c.state == SENDING,
    )
    .values(
        state=PENDING,
        tries_before=deliveries.c.tries_before + 1,
        next_try_at_ms=bindparam("now"),
        updated_at_ms=bindparam("now"),
    )
)
_RECORD = update(deliveries).where(deliveries.c.id == bindparam("own_id"))
_FORGET = delete(deliveries).where(deliveries.c.id == bindparam("own_id"))
_LOG = insert(delivery_attempts)


class Outbox:
    """What io workers do to webhooks."""

    def __init__(self, database: Database, *, pauses_s: Sequence[float], limit_s: float) -> None:
        """Parameters:
        pauses_s: between the tries at one delivery.
        limit_s: the longest a try may take.
        """
        self._database = database
        self._pauses_s = tuple(pauses_s)
        self._hold_ms = round((limit_s + MARGIN_S) * 1000)

    def due(self, *, limit: int = 256, job_ids: Collection[str] = (), except_for: Collection[str] = ()) -> list[Due]:
        """Return what may be tried now, the longest due first, and of one job in the order of its events.

        Parameters:
          job_ids: only of these jobs; empty means all.
          except_for: not for these receivers.
        """
        query = _DUE.order_by(*_IN_ORDER).limit(limit)
        if job_ids:
            query = query.where(deliveries.c.job_id.in_(list(job_ids)))
        if except_for:
            query = query.where(deliveries.c.receiver.not_in(list(except_for)))
        with self._database.read() as connection:
            rows = connection.execute(query, {"now": now_ms()}).all()
        return [Due(**row._mapping) for row in rows]

    def jobs_due(self, *, limit: int = 50) -> list[str]:
        """Return the ids of jobs with a delivery that may be tried now, the longest due first."""
        query = select(deliveries.c.job_id).where(_IS_DUE).order_by(deliveries.c.next_try_at_ms).limit(limit)
        with self._database.read() as connection:
            return list(dict.fromkeys(connection.execute(query, {"now": now_ms()}).scalars()))

    def take(self, ids: Collection[str]) -> list[Post]:
        """Begin a try at each of these deliveries that is due and not taken by another sender."""
        now = now_ms()
        with self._database.write() as transaction:
            connection = transaction.connection
            rows = connection.execute(_TAKE, {"wanted": list(ids), "now": now, "held_until": now + self._hold_ms}).all()
            told = _told_of(connection, rows)
        return [_post(row, told) for row in rows]

    def record(self, results: Sequence[tuple[Post, TryResult]]) -> None:
        """Record how tries ended, and when the next one is. A result that comes too late changes nothing."""
        with self._database.write() as transaction:
            connection = transaction.connection
            rows = connection.execute(_UNDER_WAY, {"wanted": [post.id for post, _result in results]}).all()
            tries_made = {(row.id, row.tries): row.tries_made for row in rows}
            made_at_ms = {row.id: row.created_at_ms for row in rows}
            own = [(post, result) for post, result in results if (post.id, post.tries) in tries_made]
            # By the time of another try at progress there is newer, or the job has ended.
            passing = (PROGRESS, BATCH_PROGRESS)
            stale = [post for post, result in own if result.error is not None and post.event in passing]
            kept = [(post, result) for post, result in own if post not in stale]
            if stale:
                connection.execute(_FORGET, [{"own_id": post.id} for post in stale])
            if kept:
                after = [self._after(post, result, tries_made[post.id, post.tries]) for post, result in kept]
                connection.execute(_RECORD, after)
                connection.execute(_LOG, [_line(post, result) for post, result in kept])
                _count(transaction.tally, after, made_at_ms)

    def give_back(self, posts: Collection[Post]) -> None:
        """Make deliveries that were taken and not sent due again; this try does not count in their schedule.

        The number of the try stays used up, so that nobody can take what comes later for it.
        """
        with self._database.write() as transaction:
            transaction.connection.execute(
                _GIVE_BACK, [{"own_id": post.id, "own_try": post.tries, "now": now_ms()} for post in posts]
            )

    def put_off(self, receiver: str, *, until_ms: int) -> int:
        """Let what waits for a receiver wait until then; uses up no try. Returns how many deliveries."""
        waiting = and_(
            deliveries.c.receiver == receiver, deliveries.c.state == PENDING, deliveries.c.next_try_at_ms < until_ms
        )
        with self._database.write() as transaction:
            return transaction.connection.execute(
                update(deliveries).where(waiting).values(next_try_at_ms=until_ms)
            ).rowcount

    def _after(self, post: Post, result: TryResult, tries_made: int) -> dict[str, Any]:
        """Return the row of a delivery after a try."""
        now, next_ms = now_ms(), None
        if result.error is not None and not result.is_final:
            next_ms = next_try_ms(self._pauses_s, tries_made, now_ms=now, retry_after_s=result.retry_after_s)
        ended = DELIVERED if result.error is None else DEAD
        return {
            "own_id": post.id,
            "state": ended if next_ms is None else PENDING,
            "next_try_at_ms": next_ms,
            "updated_at_ms": now,
            "status_code": result.status_code,
            "error": result.error,
        }


def _count(tally: Tally, after: Sequence[dict[str, Any]], made_at_ms: Mapping[str, int]) -> None:
    """Count tries, and what they brought to an end, from rows of deliveries after them."""
    for row in after:
        tally.add(WEBHOOK_TRIES, "failed" if row["error"] is not None else "arrived")
        if row["next_try_at_ms"] is None:
            tally.add(WEBHOOKS_ENDED, row["state"])
        if row["state"] == DELIVERED:
            seconds = max(0, row["updated_at_ms"] - made_at_ms[row["own_id"]]) / 1000
            tally.observe(WEBHOOK_DELIVERY, seconds)


def _told_of(connection: Connection, rows: Sequence[Row[Any]]) -> dict[str, Row[Any]]:
    """Return what is known of the jobs and batches that deliveries tell of, by their ids."""
    batches_told = {row.batch for row in rows if row.batch is not None}
    found: list[Row[Any]] = []
    for query, wanted in ((_WEBHOOKS, {row.job_id for row in rows}), (_BATCH_WEBHOOKS, batches_told)):
        found += connection.execute(query, {"wanted": list(wanted)}).all() if wanted else []
    return {row.id: row for row in found}


def _line(post: Post, result: TryResult) -> dict[str, Any]:
    """Return the row of a try in the log."""
    return {
        "delivery_id": post.id,
        "number": post.tries,
        "at_ms": result.at_ms,
        "duration_ms": result.duration_ms,
        "status_code": result.status_code,
        "error": result.error,
    }


def _post(row: Row[Any], told: Mapping[str, Row[Any]]) -> Post:
    job, whose = told.get(row.job_id), told.get(row.batch or row.job_id)
    webhook = None if whose is None else record_from(WebhookTarget, whose.webhook)
    return Post(
        id=row.id,
        job_id=row.job_id,
        contract=row.contract,
        event=row.event,
        seq=row.seq,
        url=row.url,
        receiver=row.receiver,
        body=row.body,
        timeout_s=row.timeout_s,
        tries=row.tries,
        webhook=webhook or WebhookTarget(url=""),
        batch=row.batch,
        tenant=None if job is None else job.tenant,
        traceparent=None if job is None else job.traceparent,
    )
