"""Removal: what is kept no longer leaves the ledger, and its files the storage.

Whoever removes takes the files away first and tells the ledger then: one who is killed in between leaves a row that is
still due, and nothing that nobody would find.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, select, tuple_, update

from core.clock import now_ms
from core.ledger.database.access_tables import idempotency_keys
from core.ledger.database.connections import Database
from core.ledger.database.tables import deliveries, jobs, uploads
from core.ledger.webhooks.outbox_writer import PENDING, SENDING
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
            return _remove(transaction.connection, and_(jobs.c.id.in_(job_ids), _is_expired()))

    def delete_job(self, job_id: str) -> bool:
        """Delete an ended job at once, whatever is on its way; False when there is none, or it has not ended."""
        with self._database.write() as transaction:
            return _remove(transaction.connection, and_(jobs.c.id == job_id, _HAS_ENDED)) == 1

    def files_removed(self, job_ids: Collection[str]) -> None:
        """Note that the files of these jobs are gone; those that came in for them alone expire."""
        with self._database.write() as transaction:
            transaction.connection.execute(update(jobs).where(jobs.c.id.in_(job_ids)).values(files_removed=True))
            _expire_inputs(transaction.connection, job_ids)

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


def _remove(connection: Connection, which: ColumnElement[bool]) -> int:
    removed = list(connection.execute(delete(jobs).where(which).returning(jobs.c.id)).scalars())
    _expire_inputs(connection, removed)
    return len(removed)


def _expire_inputs(connection: Connection, job_ids: Collection[str]) -> None:
    # Expired and not deleted: the reconciler then looks after the bytes, which others may share.
    if job_ids:
        connection.execute(update(uploads).where(uploads.c.job_id.in_(job_ids)).values(expires_at_ms=0))
