"""Folds what was counted into the sums that a scrape reads, and forgets processes that ended without a word."""

from __future__ import annotations

from core.ledger.metrics.sums import FOLDED
from tasks.reconciling.usage_folding import in_steps
from tasks.runtime import Runtime


def fold_metrics(runtime: Runtime) -> None:
    """Fold entries, as one run of the reconciler; what is left is for the next."""
    in_steps(runtime.ledger.metrics.fold, each=FOLDED)
    runtime.ledger.metrics.forget_silent()
