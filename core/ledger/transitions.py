"""The one way a job changes its status: compare-and-set, event and webhook outbox in the same transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Row, delete, update

from core.clock import now_ms
from core.ledger.database.connections import Transaction
from core.ledger.database.rows import JOB_COLUMNS, outputs_of
from core.ledger.database.tables import assets, jobs
from core.ledger.secrets import end_job
from core.ledger.webhooks.outbox_writer import announce, drop_progress, is_wanted, record_event
from core.records.job import QUEUED, RUNNING, SUCCEEDED, TERMINAL, Status, predecessors
from core.records.webhook_events import END_EVENTS, PROGRESS, STARTED, UPLOAD_FAILURE


def transition(
    transaction: Transaction,
    job_id: str,
    status: Status,
    *conditions: ColumnElement[bool],
    data: dict[str, Any] | None = None,
    after: int = 0,
    **values: Any,
) -> Row[Any] | None:
    """Move a job to `status` if its present status allows that and every condition holds.

    Parameters:
      data: what the event says beside the status.
      after: how many events were recorded in this transaction that have no number in the job's row yet.
      values: further columns to set in the same statement.
    Returns: the job's row as it is now, or None when nothing was changed.
    """
    now = now_ms()
    if status in TERMINAL:
        # Retention counts from the end, however long the job had to wait.
        waited = now - jobs.c.created_at_ms
        values |= {"completed_at_ms": now, "lease_until_ms": None}
        values |= {"expires_at_ms": jobs.c.expires_at_ms + waited}
        values |= {"files_expire_at_ms": jobs.c.files_expire_at_ms + waited}
    values |= {"status": status, "last_seq": jobs.c.last_seq + after + 1, "updated_at_ms": now}
    row = None
    for before in _by_waiting(status):
        row = transaction.connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.status.in_(before), *conditions)
            .values(**values)
            .returning(*JOB_COLUMNS)
        ).one_or_none()
        if row is not None:
            if QUEUED in before:
                transaction.leaves_line(row.line)
            break
    if row is None:
        return None
    record_event(transaction, job_id, row.last_seq, "status", {"status": status, **(data or {})}, row.status)
    if status in TERMINAL:
        _close(transaction, row)
    elif status == RUNNING and row.attempt == 1:
        announce(transaction, row, STARTED, seq=row.last_seq)
    elif status == QUEUED:
        transaction.joins_line(row.line)
        # Files of an attempt that is over are nobody's; the next attempt brings its own.
        transaction.connection.execute(delete(assets).where(assets.c.job_id == job_id))
    return row


def _by_waiting(status: Status) -> list[list[Status]]:
    """Return the statuses before this one, those apart in which a job stands in a line."""
    before = predecessors(status)
    waiting: list[Status] = [each for each in before if each == QUEUED]
    others: list[Status] = [each for each in before if each != QUEUED]
    return [group for group in (waiting, others) if group]


def _close(transaction: Transaction, row: Row[Any]) -> None:
    """What the end of a job brings with it: its webhooks enter the outbox, its secrets go."""
    connection = transaction.connection
    if row.webhook:
        outputs = outputs_of(connection, [row.id]).get(row.id, [])
        if is_wanted(row, PROGRESS):
            drop_progress(transaction, row.id)
        if row.status == SUCCEEDED:
            # Numbered as the first file that is not where it was to be: its event stands right before the end.
            missing = [place for place, output in enumerate(outputs) if output.upload_error is not None]
            if missing:
                seq = row.last_seq - len(outputs) + missing[0]
                announce(transaction, row, UPLOAD_FAILURE, seq=seq, outputs=outputs)
        announce(transaction, row, END_EVENTS[row.status], seq=row.last_seq, outputs=outputs)
    end_job(connection, row.id)
