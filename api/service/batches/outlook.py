"""How long a batch will take, by what is known of its jobs and of the queue."""

from __future__ import annotations

from api.service.estimates import Estimates
from core.ledger import Ledger
from core.records.batch import Batch


def time_left_s(batch: Batch, ledger: Ledger, estimates: Estimates) -> float | None:
    """Return how long the last job of a batch will still take; 0 when all have ended, None if nobody knows.

    Raises: LedgerUnavailable.
    """
    if batch.completed_at_ms is not None:
        return 0.0
    if batch.is_paused:
        return None
    pace = ledger.batches.pace(batch.id)
    if pace.last_waiting is None:
        return pace.run_s
    place = estimates.place(pace.last_waiting)
    if place is None or place.starts_in_s is None:
        return None
    left_s = place.starts_in_s + (pace.run_s or 0.0)
    if batch.max_running and pace.run_s:
        # However many GPUs there are, no more of its jobs run at once.
        waiting = batch.total - batch.ended
        left_s = max(left_s, waiting * pace.run_s / batch.max_running)
    return left_s
