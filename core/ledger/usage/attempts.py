"""What the end of an attempt puts down: the time it had a GPU, for its job, its tenant's books and its tenant's turns.

Who has a GPU knows how long its prompt ran, and says so. Where nobody says, it is from the moment that the ledger knows
as the prompt's beginning until now. All attempts but the one that brings a job to its end are lost: while a job has one
that is not, `run_ms` and `load_ms` of its row are those of that one alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Row, bindparam, case, or_

from core.ledger.database.connections import Transaction
from core.ledger.database.tables import jobs
from core.ledger.database.usage_entries import Owner
from core.records.job import LEASED
from core.records.usage import NO_TIME, GpuTime

#: A charge that is off by less is left as it is: each correction locks the row of its tenant for a moment.
NOTICED_S = 0.1

#: Columns that a give-back needs, to say what was lost.
LOST_COLUMNS = tuple(
    jobs.c[name]
    for name in (
        *("id", "tenant", "key_id", "workflow", "gpu", "status", "last_seq", "on_deck"),
        *("started_at_ms", "run_ms", "load_ms", "lost_ms", "charged_ms"),
    )
)

_NOW = bindparam("now", type_=BigInteger)
_NOT_BEGUN = or_(jobs.c.on_deck, jobs.c.started_at_ms.is_(None), jobs.c.started_at_ms > _NOW)
#: In an UPDATE that has the time as its parameter `now`.
SINCE_IT_BEGAN = case((_NOT_BEGUN, 0), else_=_NOW - jobs.c.started_at_ms)


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What goes with an attempt that brought its job to no end."""

    lost_ms: int
    #: What was put down for it before, as run and loaded.
    before: GpuTime = NO_TIME
    #: What its tenant was charged for it.
    refund_ms: int

    def columns(self, row: Row[Any]) -> dict[str, Any]:
        """Return the columns of its job, from its row as it was."""
        return {"run_ms": 0, "load_ms": 0, "lost_ms": row.lost_ms + self.lost_ms}


def time_columns(spent: GpuTime | None) -> dict[str, Any]:
    """Return the columns of a job whose attempt ends; None: nobody says how long it had the GPU."""
    if spent is None:
        return {"run_ms": SINCE_IT_BEGAN, "load_ms": 0}
    return {"run_ms": spent.run_ms, "load_ms": spent.load_ms}


def settle(transaction: Transaction, row: Row[Any]) -> None:
    """Put down an attempt that has ended by itself, from its job's row as it is now."""
    owner = owner_of(row)
    transaction.usage.add(owner, run_ms=row.run_ms, load_ms=row.load_ms)
    if not row.on_deck and row.started_at_ms is not None:
        transaction.usage.took(owner, waited_ms=row.started_at_ms - row.created_at_ms)
    if row.charged_ms is not None:
        _correct(transaction, row.tenant, (row.run_ms + row.load_ms - row.charged_ms) / 1000)


def lost_of(row: Row[Any], *, until_ms: int, spent: GpuTime | None = None) -> Lost:
    """Return what is lost with an attempt that comes back.

    Parameters:
      row: `LOST_COLUMNS` of the job as it is, locked.
      until_ms: when it was lost, where nobody says how long it had the GPU.
    """
    if row.status in LEASED:
        lost_ms = _had_ms(row, until_ms) if spent is None else spent.total_ms
        return Lost(lost_ms=lost_ms, refund_ms=row.charged_ms or 0)
    # The GPU was done with it, and what it made is gone.
    before = GpuTime(run_ms=row.run_ms, load_ms=row.load_ms)
    refund_ms = 0 if row.charged_ms is None else before.total_ms
    return Lost(lost_ms=before.total_ms, before=before, refund_ms=refund_ms)


def settle_lost(transaction: Transaction, row: Row[Any], lost: Lost) -> None:
    """Put down an attempt that was lost, from its job's row as it is now."""
    before = lost.before
    transaction.usage.add(owner_of(row), lost_ms=lost.lost_ms, run_ms=-before.run_ms, load_ms=-before.load_ms)
    # No tenant pays with its turns for what the fleet lost.
    _correct(transaction, row.tenant, -lost.refund_ms / 1000)


def owner_of(row: Row[Any]) -> Owner:
    """Return what is put down for a job, from its row: under the event that it had last."""
    return Owner(
        source=row.id,
        seq=row.last_seq,
        tenant=row.tenant,
        key_id=row.key_id or "",
        template=row.workflow or "",
        gpu=row.gpu or "",
    )


def _had_ms(row: Row[Any], until_ms: int) -> int:
    if row.on_deck or row.started_at_ms is None:
        return 0
    return max(0, until_ms - int(row.started_at_ms))


def _correct(transaction: Transaction, tenant: str, seconds: float) -> None:
    if abs(seconds) >= NOTICED_S:
        transaction.charge(tenant, seconds)
