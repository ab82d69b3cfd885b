"""Removal: what is kept no longer leaves the ledger, and its files the storage.

Whoever removes takes the files away first and tells the ledger then: one who is killed in between leaves a row that is
still due, and nothing that nobody would find.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, select, tuple_, update

from core.clock import now_ms
from core.ledger.audit import write_act
from core.ledger.database.access_tables import idempotency_keys
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.tables import assets, deliveries, jobs, uploads
from core.ledger.input_files import give_up
from core.ledger.webhooks.outbox_writer import PENDING, SENDING
from core.records.act import Actor
from core.records.job import TERMINAL

#: How long an Idempotency-Key stays used.
KEY_LIFE_MS = 24 * 3600 * 1000

_HAS_ENDED = jobs.c.status.in_(sorted(TERMINAL))
#: Somebody is still to be told of the job: neither it nor what it made may go before.
_IS_AWAITED = exists().where(deliveries.c.job_id == jobs.c.id, deliveries.c.state.in_([PENDING, SENDING]))


class Removal:
    """What the reconciler removes, in batches that hold no lock for long."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def expired_jobs(self, *, limit: int) -> list[str]:
        """Return the ids of jobs past their retention: ended, and with no webhook on its way."""
        return self._ids(_is_expired(), jobs.c.expires_at_ms, limit)

    def expired_files(self, *, limit: int) -> list[str]:
        """Return the ids of jobs whose files are past theirs and not removed."""
        due = and_(jobs.c.files_removed.is_(False), jobs.c.files_expire_at_ms < now_ms(), _HAS_ENDED, ~_IS_AWAITED)
        return self._ids(due, jobs.c.files_expire_at_ms, limit)

    def remove_jobs(self, job_ids: Collection[str]) -> int:
        """Delete those of the jobs that are still past their retention, with events, assets, deliveries, inputs."""
        with self._database.write() as transaction:
            return _remove(transaction, and_(jobs.c.id.in_(job_ids), _is_expired()))

    def delete_job(self, job_id: str, *, by: Actor | None = None) -> bool:
        """Delete an ended job at once, whatever is on its way; False when there is none, or it has not ended.

        Parameters: by - who does it; None: the user of this process.
        """
        with self._database.write() as transaction:
            connection = transaction.connection
            tenant = connection.execute(select(jobs.c.tenant).where(jobs.c.id == job_id)).scalar()
            _hand_over(connection, [job_id])
            is_gone = _remove(transaction, and_(jobs.c.id == job_id, _HAS_ENDED)) == 1
            if is_gone:
                write_act(connection, "job.delete", job_id, by, tenant=tenant)
        return is_gone

    def delete_jobs(self, job_ids: Collection[str], *, by: Actor | None = None) -> int:
        """Delete those of the jobs that have ended at once, whatever is on its way; returns how many.

        Parameters: by - as for `delete_job`.
        """
        with self._database.write() as transaction:
            connection = transaction.connection
            ended = and_(jobs.c.id.in_(job_ids), _HAS_ENDED)
            found = connection.execute(select(jobs.c.id, jobs.c.tenant).where(ended).with_for_update()).all()
            _hand_over(connection, [row.id for row in found])
            for row in found:
                write_act(connection, "job.delete", row.id, by, tenant=row.tenant)
            return _remove(transaction, ended)

    def files_removed(self, job_ids: Collection[str]) -> None:
        """Note that the files of these jobs are gone; those that came in for them alone expire."""
        with self._database.write() as transaction:
            gone = update(jobs).where(jobs.c.id.in_(job_ids), jobs.c.files_removed.is_(False))
            # Those alone that had some until now: of two who remove at once one counts.
            removed = transaction.connection.execute(gone.values(files_removed=True).returning(jobs.c.id)).scalars()
            _count_outputs(transaction, list(removed))
            _expire_inputs(transaction, job_ids)

    def forget_keys(self, *, limit: int) -> int:
        """Delete Idempotency-Keys that are good again; returns how many."""
        which = tuple_(idempotency_keys.c.tenant, idempotency_keys.c.key)
        old = select(idempotency_keys.c.tenant, idempotency_keys.c.key)
        old = old.where(idempotency_keys.c.created_at_ms < now_ms() - KEY_LIFE_MS).limit(limit)
        with self._database.write() as transaction:
            done = transaction.connection.execute(delete(idempotency_keys).where(which.in_(old)))
        return done.rowcount

    def _ids(self, due: ColumnElement[bool], order: ColumnElement[int], limit: int) -> list[str]:
        with self._database.read() as connection:
            return list(connection.execute(select(jobs.c.id).where(due).order_by(order).limit(limit)).scalars())


def _is_expired() -> ColumnElement[bool]:
    return and_(jobs.c.expires_at_ms < now_ms(), _HAS_ENDED, ~_IS_AWAITED)


def _hand_over(connection: Connection, job_ids: Collection[str]) -> None:
    """Keep what a batch's webhook is told with another job of the batch than these, if it has another."""
    others = jobs.alias()
    another = select(others.c.id).where(others.c.batch == deliveries.c.batch, others.c.id.not_in(job_ids)).limit(1)
    mine = and_(deliveries.c.job_id.in_(job_ids), deliveries.c.batch.is_not(None), another.exists())
    connection.execute(update(deliveries).where(mine).values(job_id=another.scalar_subquery()))


def _remove(transaction: Transaction, which: ColumnElement[bool]) -> int:
    connection = transaction.connection
    found = connection.execute(select(jobs.c.id, jobs.c.files_removed).where(which).with_for_update()).all()
    ids = [row.id for row in found]
    if not ids:
        return 0
    _count_outputs(transaction, [row.id for row in found if not row.files_removed])
    connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
    _expire_inputs(transaction, ids)
    return len(ids)


def _count_outputs(transaction: Transaction, job_ids: Collection[str]) -> None:
    """Count the stored outputs of these jobs no more."""
    if not job_ids:
        return
    sums = (
        select(jobs.c.tenant, func.sum(assets.c.size_bytes).label("size_bytes"))
        .join(assets, assets.c.job_id == jobs.c.id)
        .where(jobs.c.id.in_(job_ids), assets.c.storage_key.is_not(None))
        .group_by(jobs.c.tenant)
    )
    for row in transaction.connection.execute(sums).all():
        transaction.kept_changes[row.tenant] -= int(row.size_bytes)


def _expire_inputs(transaction: Transaction, job_ids: Collection[str]) -> None:
    if job_ids:
        give_up(transaction, uploads.c.job_id.in_(job_ids))
