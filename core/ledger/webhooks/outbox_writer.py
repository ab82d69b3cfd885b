"""Which webhooks a change of a job brings with it, and what they say: written with the change, in its transaction."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Row, bindparam, delete, insert, select, update

from core.clock import now_ms
from core.contracts.registry import contract_of
from core.ledger.database.connections import Change, Transaction, write_rows
from core.ledger.database.rows import JOB_COLUMNS, job_of
from core.ledger.database.stored_fields import record_from
from core.ledger.database.tables import deliveries, events, jobs
from core.records.batch import BATCH_PROGRESS
from core.records.job import TERMINAL, Status
from core.records.output import Output
from core.records.webhook_events import DEFAULT_EVENTS, PROGRESS
from core.records.webhook_target import WebhookTarget

#: States of a delivery: it waits, somebody sends it, it arrived, it was given up.
PENDING, SENDING, DELIVERED, DEAD = "pending", "sending", "delivered", "dead"
#: The kind of a job's event that tells of progress. Only jobs whose webhook wants to know have such events.
PROGRESS_EVENT = "progress"
#: Progress is told when so much time has passed since it was last told, and the job is so much further.
PROGRESS_EVERY_MS = 5_000
PROGRESS_STEP = 0.05

# On the path of many jobs, so built once.
_INSERT = insert(deliveries)
_INSERT_EVENT = insert(events)
_LAST_PROGRESS = (
    select(events.c.data, events.c.at_ms)
    .where(events.c.job_id == bindparam("of"), events.c.type == PROGRESS_EVENT)
    .order_by(events.c.seq.desc())
    .limit(1)
)
_PORTS = {"http": 80, "https": 443}


def announce(transaction: Transaction, row: Row[Any], event: str, *, seq: int, outputs: Iterable[Output] = ()) -> None:
    """Put an event into the outbox, if the webhook of the job wants it.

    Parameters:
      row: the job as it is now, with all of `JOB_COLUMNS`.
      event: one of `core.records.webhook_events.EVENTS`.
      seq: the number of the job's event it tells of.
    """
    webhook = record_from(WebhookTarget, row.webhook)
    if webhook is None or not _wants(webhook, event):
        return
    write_body = contract_of(row.contract).webhook_body
    body = write_body(job_of(row, outputs), event, seq=seq, at_ms=now_ms(), signer=transaction.signer)
    put_into_outbox(transaction, webhook, job_id=row.id, contract=row.contract, event=event, seq=seq, body=body)
    if row.status not in TERMINAL:
        # What ends a job publishes what follows; here nothing else would.
        transaction.changes.append(Change(job_id=row.id, seq=seq, status=row.status, is_posted=True))


def put_into_outbox(
    transaction: Transaction,
    webhook: WebhookTarget,
    *,
    job_id: str,
    contract: str,
    event: str,
    seq: int,
    body: Mapping[str, Any],
    batch: str | None = None,
) -> None:
    """Have an event sent to a webhook. Parameters: as the columns of `deliveries`."""
    now = now_ms()
    transaction.connection.execute(
        _INSERT,
        {
            "id": str(uuid.uuid4()),
            "job_id": job_id,
            "batch": batch,
            "contract": contract,
            "event": event,
            "seq": seq,
            "url": webhook.url,
            "receiver": receiver_of(webhook.url),
            "timeout_s": webhook.timeout_s,
            "body": json.dumps(body),
            "state": PENDING,
            "tries": 0,
            "tries_before": 0,
            "next_try_at_ms": now,
            "created_at_ms": now,
            "updated_at_ms": now,
        },
    )


def is_wanted(row: Row[Any], event: str) -> bool:
    """Return whether a job has a webhook that wants this event."""
    webhook = record_from(WebhookTarget, row.webhook)
    return webhook is not None and _wants(webhook, event)


def announce_progress(transaction: Transaction, row: Row[Any]) -> None:
    """Tell how far a running job is, if its webhook wants to know and there is enough to tell.

    Parameters:
      row: the job with its newest progress, as for `announce`.
    """
    if not is_wanted(row, PROGRESS):
        return
    value = row.progress.get("value", 0.0)
    if not _is_further(transaction, row, value):
        return
    numbered = transaction.connection.execute(
        update(jobs).where(jobs.c.id == row.id).values(last_seq=jobs.c.last_seq + 1).returning(*JOB_COLUMNS)
    ).one()
    data = {"value": value, "attempt": row.attempt}
    record_event(transaction, row.id, numbered.last_seq, PROGRESS_EVENT, data, row.status)
    drop_progress(transaction, row.id)
    announce(transaction, numbered, PROGRESS, seq=numbered.last_seq)


def drop_progress(transaction: Transaction, job_id: str) -> None:
    """Drop progress that was not told: there is newer, or the job has ended."""
    transaction.connection.execute(
        delete(deliveries).where(
            deliveries.c.job_id == job_id, deliveries.c.event == PROGRESS, deliveries.c.next_try_at_ms.is_not(None)
        )
    )


def drop_batch_progress(transaction: Transaction, batch_id: str) -> None:
    """Drop the progress of a batch that was not told: there is newer, or it is over."""
    transaction.connection.execute(
        delete(deliveries).where(
            deliveries.c.batch == batch_id,
            deliveries.c.event == BATCH_PROGRESS,
            deliveries.c.next_try_at_ms.is_not(None),
        )
    )


def record_event(
    transaction: Transaction, job_id: str, seq: int, kind: str, data: dict[str, Any], status: Status
) -> None:
    """Append one event to a job's log and make it known after the commit."""
    record_events(transaction, [job_id], seq, kind, data, status)


def record_events(
    transaction: Transaction, job_ids: Collection[str], seq: int, kind: str, data: dict[str, Any], status: Status
) -> None:
    """Append the same event to the logs of several jobs and make it known after the commit."""
    same = {"seq": seq, "type": kind, "data": data, "at_ms": now_ms()}
    write_rows(transaction.connection, _INSERT_EVENT, [{"job_id": job_id, **same} for job_id in job_ids])
    transaction.changes.extend(Change(job_id=job_id, seq=seq, status=status) for job_id in job_ids)


def receiver_of(url: str) -> str:
    """Return scheme, host and port of a URL that was checked: `https://example.com:443`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or _PORTS.get(parts.scheme)}"[:255]


def _wants(webhook: WebhookTarget, event: str) -> bool:
    return bool(webhook.url) and event in (webhook.events or DEFAULT_EVENTS)


def _is_further(transaction: Transaction, row: Row[Any], value: float) -> bool:
    last = transaction.connection.execute(_LAST_PROGRESS, {"of": row.id}).one_or_none()
    if last is None:
        return value >= PROGRESS_STEP
    if 0 <= now_ms() - last.at_ms < PROGRESS_EVERY_MS:
        return False
    # Another attempt begins at nothing again.
    begun_at = last.data.get("value", 0.0) if last.data.get("attempt") == row.attempt else 0.0
    return bool(value - begun_at >= PROGRESS_STEP)
