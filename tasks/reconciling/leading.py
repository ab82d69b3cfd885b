"""Leads the waiting jobs of batches that were paused or limited into their lines, where whoever did so could not."""

from __future__ import annotations

from tasks.runtime import Runtime

#: What one run of the reconciler gives to them, however many wait.
TIME_LIMIT_S = 1.0


def lead_batches(runtime: Runtime) -> None:
    """Go on with leading them; of a fleet where all have been, nothing is done."""
    runtime.ledger.batch_lines.lead_all(time_limit_s=TIME_LIMIT_S)
