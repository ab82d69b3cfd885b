"""Folds the logs of jobs that ended a while ago, in small steps."""

from __future__ import annotations

from core.ledger.event_log import LOOKED_AT
from tasks.reconciling.usage_folding import in_steps
from tasks.runtime import Runtime


def fold_events(runtime: Runtime) -> None:
    """Fold logs, as one run of the reconciler; what is left is for the next."""
    in_steps(runtime.ledger.event_folding.fold, each=LOOKED_AT)
