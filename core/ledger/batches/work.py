"""What befalls many jobs of a batch: cancel and retry, in steps that hold nobody up, and what is left of them.

What is wanted stands in the row of the batch until it is done. Who begins it goes on while its client waits; the
reconciler does the rest, whoever died meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    exists,
    false,
    func,
    insert,
    not_,
    null,
    or_,
    select,
    update,
)

from core.clock import now_ms
from core.errors import NotFound, SecretUnreadable
from core.ledger.access.owned import is_owned
from core.ledger.batch_end import close, reopened
from core.ledger.batches.intake import first_event
from core.ledger.batches.secrets import OF_JOBS, OF_WEBHOOKS, BatchSecrets
from core.ledger.database.batch_rows import OPEN
from core.ledger.database.batch_tables import batches, shared_graphs
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.rows import JOB_COLUMNS, job_of
from core.ledger.database.tables import events, job_inputs, jobs
from core.ledger.secrets import Secrets
from core.ledger.transitions import cancel_queued, transition
from core.ledger.usage.room import refuse_beyond
from core.records.access import ALL_TENANTS
from core.records.job import CANCELED, CANCELING, DELIVERING, QUEUED, RUNNING, Job, Status, new_job_id

#: Which ended jobs of a batch are to be replaced: by status, those that were made before a moment.
RetryWish: TypeAlias = dict[Status, int]

#: Jobs of one transaction.
STEP = 200
#: Batches that the reconciler looks at in one tick.
LOOK = 100

_MOVABLE = (QUEUED, RUNNING, DELIVERING)
_HAS_OPEN = exists().where(jobs.c.batch == batches.c.id, jobs.c.status.in_(OPEN))
_HAS_JOBS = exists().where(jobs.c.batch == batches.c.id)
#: Columns of a failed job that the one which replaces it does not have, and those that begin anew.
_LEFT = frozenset(
    (
        *("lost_on", "lost_code", "losses", "lease_until_ms", "instance", "gpu", "progress", "error"),
        *("outputs_reused", "warnings", "started_at_ms", "generated_at_ms", "completed_at_ms"),
        *("own_request_id", "request_id", "request_mark", "charged_ms"),
    )
)
_ANEW: dict[str, Any] = {
    "status": QUEUED,
    "attempt": 0,
    "last_seq": 1,
    "lost_attempts": 0,
    "on_deck": False,
    "delivery_losses": 0,
    "files_removed": False,
    "callers": 1,
    "run_ms": 0,
    "load_ms": 0,
    "lost_ms": 0,
}


class BatchWork:
    """What is done to many jobs of a batch. `of` is the tenant whose batches there are for who asks."""

    def __init__(self, database: Database, secrets: Secrets, batch_secrets: BatchSecrets) -> None:
        self._database = database
        self._secrets = secrets
        self._batch_secrets = batch_secrets

    def ask_cancel(self, batch_id: str, *, of: str = ALL_TENANTS) -> None:
        """Note that all jobs that a batch has now are to be cancelled. Raises NotFound."""
        with self._database.write() as transaction:
            mine = and_(batches.c.id == batch_id, is_owned(batches.c.tenant, of))
            # A retry that is under way is over with it.
            wish = {"cancel_before_ms": now_ms(), "retry_before_ms": None, "retry_statuses": null()}
            if not transaction.connection.execute(update(batches).where(mine).values(**wish)).rowcount:
                raise NotFound(f"There is no batch {batch_id}.")

    def cancel_some(self, batch_id: str) -> tuple[list[Job], bool]:
        """Cancel some of the jobs of a batch that are to be.

        Returns: those that somebody has to be told of, for they were under way; and whether it may not be done yet.
        """
        with self._database.write() as transaction:
            connection = transaction.connection
            before = connection.execute(select(batches.c.cancel_before_ms).where(batches.c.id == batch_id)).scalar()
            if before is None:
                return [], False
            is_due = and_(jobs.c.batch == batch_id, jobs.c.status.in_(_MOVABLE), jobs.c.created_at_ms <= before)
            query = select(jobs.c.id, jobs.c.status).where(is_due).order_by(jobs.c.batch_index).limit(STEP)
            # What is locked is moving just now; the next step finds it as it is then.
            found = connection.execute(query.with_for_update(skip_locked=True)).all()
            if found:
                return _canceled(transaction, batch_id, found), True
            if connection.execute(select(jobs.c.id).where(is_due).limit(1)).scalar() is not None:
                return [], True
            connection.execute(update(batches).where(batches.c.id == batch_id).values(cancel_before_ms=None))
            return [], False

    def ask_retry(
        self, batch_id: str, statuses: Collection[Status], *, of: str = ALL_TENANTS, max_waiting: int | None = None
    ) -> list[str]:
        """Have the jobs of a batch that ended so made again: each is replaced by a new one in its place.

        `BatchLines.lead` follows, as it does after `retry_some`: the batch may have a gate.

        Parameters:
          max_waiting: how many jobs of its tenant may wait, with these; None: as many as come.
        A retry that is under way goes on, and this one is added to it.

        Returns: the ids of the first new jobs; none where there is nothing to replace beside what is under way.
        Raises: NotFound; LimitReached; SecretUnreadable - jobs cannot be made again without what came with them.
        """
        with self._database.write() as transaction:
            connection, now = transaction.connection, now_ms()
            mine = and_(batches.c.id == batch_id, is_owned(batches.c.tenant, of))
            locked = select(batches.c.retry_before_ms, batches.c.retry_statuses, batches.c.tenant).where(mine)
            row = connection.execute(locked.with_for_update()).one_or_none()
            if row is None:
                raise NotFound(f"There is no batch {batch_id}.")
            under_way = _wish(row)
            wish = under_way | dict.fromkeys(statuses, now)
            if under_way and not _count_due(connection, batch_id, wish, but_of=under_way):
                return []
            if max_waiting is not None:
                refuse_beyond(transaction, row.tenant, _count_due(connection, batch_id, wish), max_waiting=max_waiting)
            made = self._replace(transaction, batch_id, wish)
            if made:
                noted = {"retry_before_ms": now, "retry_statuses": wish, **reopened()}
                connection.execute(update(batches).where(batches.c.id == batch_id).values(**noted))
            return made

    def retry_some(self, batch_id: str) -> tuple[list[str], bool]:
        """Replace some of the jobs that are to be. Returns: the ids of the new ones, and whether there may be more."""
        with self._database.write() as transaction:
            connection = transaction.connection
            noted = select(batches.c.retry_before_ms, batches.c.retry_statuses).where(batches.c.id == batch_id)
            row = connection.execute(noted.with_for_update()).one_or_none()
            if row is None or row.retry_before_ms is None:
                return [], False
            made = self._replace(transaction, batch_id, _wish(row))
            if not made:
                done = {"retry_before_ms": None, "retry_statuses": null()}
                connection.execute(update(batches).where(batches.c.id == batch_id).values(**done))
                _close_by_last(transaction, batch_id)
            return made, bool(made)

    def unfinished(self) -> list[tuple[str, bool]]:
        """Return batches of which a cancel or a retry is not done: their ids, and whether it is a cancel."""
        query = select(batches.c.id, batches.c.cancel_before_ms).limit(LOOK)
        query = query.where(or_(batches.c.cancel_before_ms.is_not(None), batches.c.retry_before_ms.is_not(None)))
        with self._database.read() as connection:
            return [(row.id, row.cancel_before_ms is not None) for row in connection.execute(query)]

    def close_ended(self) -> list[str]:
        """Close batches whose last jobs ended at once, so that neither saw it; returns their ids."""
        is_over = and_(batches.c.completed_at_ms.is_(None), batches.c.retry_before_ms.is_(None), ~_HAS_OPEN)
        with self._database.read() as connection:
            found = list(connection.execute(select(batches.c.id).where(is_over).limit(LOOK)).scalars())
        closed = []
        for batch_id in found:
            with self._database.write() as transaction:
                if _close_by_last(transaction, batch_id):
                    closed.append(batch_id)
        return closed

    def forget(self) -> int:
        """Remove batches whose jobs have all left the ledger, and graphs that no job is made from; returns how many."""
        is_gone = and_(batches.c.completed_at_ms.is_not(None), ~_HAS_JOBS)
        is_unused = ~exists().where(jobs.c.shared_graph == shared_graphs.c.id)
        gone = select(batches.c.id).where(is_gone).limit(LOOK)
        unused = select(shared_graphs.c.id).where(is_unused).limit(LOOK)
        with self._database.write() as transaction:
            connection = transaction.connection
            removed = connection.execute(delete(batches).where(batches.c.id.in_(gone))).rowcount
            connection.execute(delete(shared_graphs).where(shared_graphs.c.id.in_(unused)))
        return removed

    def webhook_secrets(self, batch_ids: Collection[str]) -> dict[str, dict[str, Any] | SecretUnreadable]:
        """Open what signs and addresses the webhooks of batches: for each its secrets, or why they cannot be read."""
        with self._database.read() as connection:
            return self._batch_secrets.open_all(connection, batch_ids, OF_WEBHOOKS)

    def job_secrets(self, batch_id: str) -> dict[str, Any]:
        """Open what the jobs of a batch get. Raises SecretUnreadable."""
        with self._database.read() as connection:
            found = self._batch_secrets.open_all(connection, [batch_id], OF_JOBS)[batch_id]
        if isinstance(found, SecretUnreadable):
            raise found
        return found

    def _replace(self, transaction: Transaction, batch_id: str, wish: RetryWish) -> list[str]:
        connection, now = transaction.connection, now_ms()
        query = select(jobs).where(_is_due(batch_id, wish)).order_by(jobs.c.batch_index).limit(STEP).with_for_update()
        failed = connection.execute(query).all()
        if not failed:
            return []
        # In the order of their places, as claims take what came at the same time by their ids.
        ids = sorted(new_job_id() for _ in failed)
        left = update(jobs).where(jobs.c.id.in_([row.id for row in failed]))
        connection.execute(left.values(batch=None, batch_index=None))
        connection.execute(insert(jobs), [_again(row, job_id, now) for row, job_id in zip(failed, ids, strict=True)])
        connection.execute(insert(events), [first_event(job_id, now) for job_id in ids])
        new_of = {row.id: job_id for row, job_id in zip(failed, ids, strict=True)}
        # They stand in the lines of those that they replace: perhaps not where a gate of the batch wants them.
        connection.execute(update(batches).where(batches.c.id == batch_id).values(is_led=False))
        self._give_inputs(transaction, new_of)
        self._give_secrets(transaction, batch_id, ids)
        for row in failed:
            transaction.joins_line(row.line)
        return ids

    def _give_inputs(self, transaction: Transaction, new_of: dict[str, str]) -> None:
        query = select(job_inputs).where(job_inputs.c.job_id.in_(list(new_of)))
        kept = transaction.connection.execute(query).all()
        rows = [{"job_id": new_of[row.job_id], "storage_key": row.storage_key} for row in kept]
        if rows:
            transaction.connection.execute(insert(job_inputs), rows)

    def _give_secrets(self, transaction: Transaction, batch_id: str, job_ids: Sequence[str]) -> None:
        found = self._batch_secrets.open_all(transaction.connection, [batch_id], OF_JOBS)[batch_id]
        if isinstance(found, SecretUnreadable):
            raise found
        for job_id in job_ids if found else ():
            self._secrets.record(transaction.connection, job_id, found)


def _wish(row: Row[Any]) -> RetryWish:
    """Return what is to be replaced, by the row of a batch; nothing where no retry is under way."""
    noted = row.retry_statuses
    # Of earlier versions: a list, all of it from one moment.
    return dict(noted or {}) if isinstance(noted, dict) else dict.fromkeys(noted or (), row.retry_before_ms)


def _is_due(batch_id: str, wish: RetryWish) -> ColumnElement[bool]:
    ended = (and_(jobs.c.status == status, jobs.c.created_at_ms < before) for status, before in wish.items())
    return and_(jobs.c.batch == batch_id, jobs.c.status.in_(list(wish)), or_(false(), *ended))


def _count_due(connection: Connection, batch_id: str, wish: RetryWish, *, but_of: RetryWish | None = None) -> int:
    """Return how many jobs are to be replaced. Parameters: but_of - without those that this one asks for already."""
    is_meant = _is_due(batch_id, wish)
    if but_of is not None:
        is_meant = and_(is_meant, not_(_is_due(batch_id, but_of)))
    return int(connection.execute(select(func.count()).select_from(jobs).where(is_meant)).scalar_one())


def _canceled(transaction: Transaction, batch_id: str, found: Sequence[Row[Any]]) -> list[Job]:
    """Cancel jobs that are locked; returns those that were under way."""
    cancel_queued(transaction, [row.id for row in found if row.status == QUEUED])
    told = []
    for row in found:
        moved = None
        if row.status == DELIVERING:
            moved = transition(transaction, row.id, CANCELED, jobs.c.status == DELIVERING)
        elif row.status == RUNNING:
            moved = transition(transaction, row.id, CANCELING, jobs.c.status == RUNNING)
        if moved is not None:
            told.append(job_of(moved))
    if len(told) < len(found):
        _close_by_last(transaction, batch_id)
    return told


def _close_by_last(transaction: Transaction, batch_id: str) -> bool:
    """Close a batch, if it is over, with the job of its last place."""
    query = select(*JOB_COLUMNS).where(jobs.c.batch == batch_id).order_by(jobs.c.batch_index.desc()).limit(1)
    last = transaction.connection.execute(query).one_or_none()
    if last is None:
        return close(transaction, batch_id, by=None, status=CANCELED)
    return close(transaction, batch_id, by=last.id, status=last.status)


def _again(row: Row[Any], job_id: str, now: int) -> dict[str, Any]:
    """Return the row of a job that replaces an ended one: the same job, kept for as long after its end."""
    values = {name: value for name, value in row._mapping.items() if name not in _LEFT} | _ANEW
    ended_at_ms = row.completed_at_ms or now
    start_by_ms = None if row.start_within_s is None else now + int(row.start_within_s * 1000)
    return values | {
        "id": job_id,
        "replaces": row.id,
        "start_by_ms": start_by_ms,
        "created_at_ms": now,
        "updated_at_ms": now,
        "expires_at_ms": now + row.expires_at_ms - ended_at_ms,
        "files_expire_at_ms": now + row.files_expire_at_ms - ended_at_ms,
    }
