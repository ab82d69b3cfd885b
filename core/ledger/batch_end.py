"""The end of a batch: noticed with the end of its last job, told once, and undone when jobs are added.

Two jobs that end at once do not see each other's end; then the reconciler finds that the batch is over.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, bindparam, null, select, update

from core.clock import now_ms
from core.contracts.batch_events import batch_event_body
from core.ledger.database.batch_rows import BATCH_COLUMNS, batch_of, counts_of, has_open
from core.ledger.database.batch_tables import batches
from core.ledger.database.connections import Change, Transaction
from core.ledger.webhooks.outbox_writer import drop_batch_progress, put_into_outbox
from core.records.batch import BATCH_COMPLETED, BATCH_EVENTS, BATCH_PROGRESS, Batch
from core.records.job import Status

# On the path of every child, so built once.
_TELLING = select(batches.c.progress_every_s, batches.c.told_at_ms).where(batches.c.id == bindparam("wanted"))
_LOCKED = select(*BATCH_COLUMNS).where(batches.c.id == bindparam("wanted")).with_for_update()
_SET = update(batches).where(batches.c.id == bindparam("wanted"))
_CLOSE = _SET.values(
    completed_at_ms=bindparam("now"),
    completions=batches.c.completions + 1,
    counts=bindparam("new_counts", type_=batches.c.counts.type),
)
_TOLD = _SET.values(told_at_ms=bindparam("now"), told_value=bindparam("value"))


def note_end(transaction: Transaction, row: Row[Any]) -> None:
    """Look whether the end of a job is that of its batch, and tell how far that is if it is not.

    Parameters:
      row: the job as it is now; it may have no batch.
    """
    if row.batch is None:
        return
    if not has_open(transaction.connection, row.batch):
        close(transaction, row.batch, by=row.id, status=row.status)
        return
    telling = transaction.connection.execute(_TELLING, {"wanted": row.batch}).one_or_none()
    if telling is not None and _is_due(telling):
        _tell_progress(transaction, row.batch, by=row.id, status=row.status)


def close(transaction: Transaction, batch_id: str, *, by: str | None, status: Status) -> bool:
    """Note that all jobs of a batch have ended, and tell its webhook; False where one has not, or it is noted already.

    Parameters:
      by: a job of it, with which its webhooks are kept; None: it has none any more.
      status: of that job.
    """
    connection = transaction.connection
    row = connection.execute(_LOCKED, {"wanted": batch_id}).one_or_none()
    if row is None or row.completed_at_ms is not None or row.retry_before_ms is not None:
        return False
    # Asked again, now that nobody adds jobs meanwhile.
    if has_open(connection, batch_id):
        return False
    now = now_ms()
    counts = counts_of(connection, [batch_id])[batch_id]
    connection.execute(_CLOSE, {"wanted": batch_id, "now": now, "new_counts": counts})
    closed = connection.execute(_LOCKED, {"wanted": batch_id}).one()
    if by is not None:
        drop_batch_progress(transaction, batch_id)
        _announce(transaction, batch_of(closed), BATCH_COMPLETED, by=by, status=status, now=now)
    return True


def reopened() -> dict[str, Any]:
    """Return the columns of a batch that has jobs to wait for again."""
    return {"completed_at_ms": None, "counts": null(), "told_value": None}


def _is_due(telling: Row[Any]) -> bool:
    if telling.progress_every_s is None:
        return False
    passed_ms = now_ms() - (telling.told_at_ms or 0)
    # The clock may have been set back.
    return passed_ms < 0 or passed_ms >= telling.progress_every_s * 1000


def _tell_progress(transaction: Transaction, batch_id: str, *, by: str, status: Status) -> None:
    connection = transaction.connection
    row = connection.execute(_LOCKED, {"wanted": batch_id}).one_or_none()
    # Another job that ended may have told it meanwhile.
    if row is None or not _is_due(row):
        return
    now = now_ms()
    batch = batch_of(row, counts_of(connection, [batch_id])[batch_id])
    is_further = batch.progress - (row.told_value or 0.0) >= (batch.progress_step or 0.0)
    # Noted either way: what is not far enough is not counted again with each job.
    told = batch.progress if is_further else row.told_value
    connection.execute(_TOLD, {"wanted": batch_id, "now": now, "value": told})
    if is_further:
        drop_batch_progress(transaction, batch_id)
        _announce(transaction, batch, BATCH_PROGRESS, by=by, status=status, now=now)


def _announce(transaction: Transaction, batch: Batch, event: str, *, by: str, status: Status, now: int) -> None:
    webhook = batch.webhook
    if webhook is None or event not in (webhook.events or BATCH_EVENTS):
        return
    put_into_outbox(
        transaction,
        webhook,
        job_id=by,
        batch=batch.id,
        contract="v2",
        event=event,
        seq=batch.completions,
        body=batch_event_body(batch, event, at_ms=now),
    )
    transaction.changes.append(Change(job_id=by, seq=0, status=status, is_posted=True))
