"""The one way a job changes its status: compare-and-set, event and webhook outbox in the same transaction."""

from __future__ import annotations

import json
import uuid
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, delete, insert, update

from core.job import QUEUED, TERMINAL, predecessors
from core.ledger.database import Change, Transaction, now_ms
from core.ledger.rows import JOB_COLUMNS, job_of, outputs_of
from core.ledger.tables import assets, deliveries, events, jobs, secrets
from core.results import webhook_body

# On the path of every job, so built once.
_INSERT_EVENT = insert(events)
_FORGET_SECRETS = delete(secrets).where(secrets.c.job_id == bindparam("ended"))

#: Outbox states of one webhook delivery.
PENDING, SENDING, DELIVERED, GAVE_UP = "pending", "sending", "delivered", "failed"


def transition(
    transaction: Transaction,
    job_id: str,
    status: str,
    *conditions: ColumnElement[bool],
    data: dict[str, Any] | None = None,
    **values: Any,
) -> Row[Any] | None:
    """Move a job to `status` if its present status allows that and every condition holds.

    Parameters:
      data: what the event says beside the status.
      values: further columns to set in the same statement.
    Returns: the job's row as it is now, or None when nothing was changed.
    """
    now = now_ms()
    if status in TERMINAL:
        # Retention counts from the end, however long the job had to wait.
        kept_until = jobs.c.expires_at_ms + (now - jobs.c.created_at_ms)
        values |= {"completed_at_ms": now, "lease_until_ms": None, "expires_at_ms": kept_until}
    row = transaction.connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status.in_(predecessors(status)), *conditions)
        .values(status=status, last_seq=jobs.c.last_seq + 1, updated_at_ms=now, **values)
        .returning(*JOB_COLUMNS)
    ).one_or_none()
    if row is None:
        return None
    record_event(transaction, job_id, row.last_seq, "status", {"status": status, **(data or {})}, row.status)
    if status in TERMINAL:
        _close(transaction, row)
    elif status == QUEUED:
        # Files of an attempt that is over are nobody's; the next attempt brings its own.
        transaction.connection.execute(delete(assets).where(assets.c.job_id == job_id))
    return row


def record_event(transaction: Transaction, job_id: str, seq: int, kind: str, data: dict[str, Any], status: str) -> None:
    """Append one event to a job's log and make it known after the commit."""
    row = {"job_id": job_id, "seq": seq, "type": kind, "data": data, "at_ms": now_ms()}
    transaction.connection.execute(_INSERT_EVENT, row)
    transaction.changes.append(Change(job_id=job_id, seq=seq, status=status))


def _close(transaction: Transaction, row: Row[Any]) -> None:
    """What the end of a job brings with it: its webhook enters the outbox, its secrets go."""
    connection = transaction.connection
    if row.webhook:
        job = job_of(row, outputs_of(connection, [row.id]).get(row.id, []))
        connection.execute(
            insert(deliveries).values(
                id=str(uuid.uuid4()),
                job_id=row.id,
                event=f"job.{row.status}",
                url=row.webhook["url"],
                timeout_s=row.webhook["timeout_s"],
                body=json.dumps(webhook_body(job)),
                state=PENDING,
                tries=0,
                created_at_ms=now_ms(),
                updated_at_ms=now_ms(),
            )
        )
    connection.execute(_FORGET_SECRETS, {"ended": row.id})
