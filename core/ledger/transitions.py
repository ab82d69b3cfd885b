"""The one way a job changes its status: compare-and-set, event and webhook outbox in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import BigInteger, ClauseElement, ColumnElement, Row, bindparam, delete, insert, null, update
from sqlalchemy.sql.dml import ReturningUpdate

from core.clock import now_ms
from core.ledger.batch_end import note_end
from core.ledger.database.connections import Transaction
from core.ledger.database.rows import JOB_COLUMNS, outputs_of
from core.ledger.database.tables import assets, events, jobs
from core.ledger.secrets import end_job, end_jobs
from core.ledger.usage.attempts import owner_of, settle, time_columns
from core.ledger.webhooks.outbox_writer import announce, drop_progress, is_wanted, record_event
from core.metrics.counted import JOBS_FAILED
from core.records.job import CANCELED, FAILED, LEASED, QUEUED, RUNNING, SUCCEEDED, TERMINAL, Status, predecessors
from core.records.usage import GpuTime
from core.records.webhook_events import END_EVENTS, PROGRESS, STARTED, UPLOAD_FAILURE

#: What a job's row gets beside what is said, where it ends: retention counts from the end, however long it had to wait.
_WAITED = bindparam("now", type_=BigInteger) - jobs.c.created_at_ms
_AT_THE_END: dict[str, Any] = {
    "completed_at_ms": bindparam("now", type_=BigInteger),
    "lease_until_ms": null(),
    "expires_at_ms": jobs.c.expires_at_ms + _WAITED,
    "files_expire_at_ms": jobs.c.files_expire_at_ms + _WAITED,
}
#: Shapes of statements that are kept: there are some ten.
KEPT = 64


def transition(
    transaction: Transaction,
    job_id: str,
    status: Status,
    *conditions: ColumnElement[bool],
    of_attempt: int | None = None,
    spent: GpuTime | None = None,
    data: dict[str, Any] | None = None,
    after: int = 0,
    **values: Any,
) -> Row[Any] | None:
    """Move a job to `status` if its present status allows that and every condition holds.

    Parameters:
      of_attempt: only if this attempt holds it, running or about to be cancelled; it ends with that.
      spent: how long that attempt had the GPU; None: since the ledger was told that it began.
      data: what the event says beside the status.
      after: how many events were recorded in this transaction that have no number in the job's row yet.
      values: further columns to set in the same statement.
    Returns: the job's row as it is now, or None when nothing was changed.
    """
    if of_attempt is not None:
        values |= time_columns(spent)
    given = {f"new_{name}": value for name, value in values.items() if not isinstance(value, ClauseElement)}
    given |= {"job": job_id, "now": now_ms(), "status": status, "more": after + 1}
    if of_attempt is not None:
        given["mine"] = of_attempt
    # What is worked out from columns is part of the statement; a plain value is not.
    columns = tuple((name, None if f"new_{name}" in given else value) for name, value in values.items())
    # Statements with conditions of their own are rare, and none is like another.
    build = _statement.__wrapped__ if conditions else _statement
    row = None
    for before in _by_waiting(status):
        statement = build(before, columns, is_end=status in TERMINAL, is_fenced=of_attempt is not None)
        row = transaction.connection.execute(
            statement.where(*conditions) if conditions else statement, given
        ).one_or_none()
        if row is not None:
            if QUEUED in before:
                transaction.leaves_line(row.line)
            break
    if row is None:
        return None
    if of_attempt is not None:
        settle(transaction, row)
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


@lru_cache(KEPT)
def _statement(
    before: tuple[Status, ...],
    columns: tuple[tuple[str, Any], ...],
    *,
    is_end: bool,
    is_fenced: bool,
    are_many: bool = False,
) -> ReturningUpdate[Any]:
    """Return the UPDATE of a move. On the path of every job, and building one takes longer than running it.

    Parameters:
      columns: names of those to set, each with what it is worked out from, or None for a parameter `new_<name>`.
      are_many: the jobs of a parameter `these` are moved, and not the one of `job`.
    """
    values = dict(_AT_THE_END) if is_end else {}
    for name, worked_out in columns:
        parameter = bindparam(f"new_{name}", type_=jobs.c[name].type)
        values[name] = parameter if worked_out is None else worked_out
    values["status"] = bindparam("status", type_=jobs.c.status.type)
    values["last_seq"] = jobs.c.last_seq + bindparam("more", type_=BigInteger)
    values["updated_at_ms"] = bindparam("now", type_=BigInteger)
    is_meant = jobs.c.id.in_(bindparam("these", expanding=True)) if are_many else jobs.c.id == bindparam("job")
    statement = update(jobs).where(is_meant, jobs.c.status.in_(before))
    if is_fenced:
        statement = statement.where(jobs.c.attempt == bindparam("mine"), jobs.c.status.in_(sorted(LEASED)))
    return statement.values(**values).returning(*JOB_COLUMNS)


@cache
def _by_waiting(status: Status) -> tuple[tuple[Status, ...], ...]:
    """Return the statuses before this one, those apart in which a job stands in a line."""
    before = predecessors(status)
    waiting = tuple(each for each in before if each == QUEUED)
    others = tuple(each for each in before if each != QUEUED)
    return tuple(group for group in (waiting, others) if group)


def cancel_queued(transaction: Transaction, job_ids: Sequence[str]) -> int:
    """Cancel waiting jobs without webhooks, such as those of a batch, with few statements; returns how many.

    Nobody is sent a notice for each: who watches one of them learns of it at its next look.
    """
    if not job_ids:
        return 0
    connection, now = transaction.connection, now_ms()
    statement = _statement((QUEUED,), (), is_end=True, is_fenced=False, are_many=True)
    given = {"these": list(job_ids), "now": now, "status": CANCELED, "more": 1}
    rows = connection.execute(statement, given).all()
    if not rows:
        return 0
    connection.execute(insert(events), [_event(row, {"status": CANCELED}, now) for row in rows])
    for row in rows:
        transaction.leaves_line(row.line)
        transaction.usage.add(owner_of(row), **{CANCELED: 1})
    end_jobs(connection, [row.id for row in rows])
    return len(rows)


def _event(row: Row[Any], data: dict[str, Any], now: int) -> dict[str, Any]:
    return {"job_id": row.id, "seq": row.last_seq, "type": "status", "data": data, "at_ms": now}


def _note_durations(transaction: Transaction, row: Row[Any]) -> None:
    """Put down how long a job took that has succeeded, and how long its files after it had run."""
    took = {"total_ms": row.completed_at_ms - row.created_at_ms}
    if row.generated_at_ms is not None:
        took["stored_ms"] = row.completed_at_ms - row.generated_at_ms
    transaction.usage.took(owner_of(row), **took)


def _close(transaction: Transaction, row: Row[Any]) -> None:
    """What the end of a job brings with it: it is counted, its webhooks enter the outbox, its secrets go."""
    connection = transaction.connection
    transaction.usage.add(owner_of(row), **{row.status: 1})
    if row.status == SUCCEEDED:
        _note_durations(transaction, row)
    elif row.status == FAILED:
        transaction.tally.add(JOBS_FAILED, str((row.error or {}).get("code", "")))
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
    note_end(transaction, row)
