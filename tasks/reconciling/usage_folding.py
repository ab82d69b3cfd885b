"""Folds what was used into the sums of its day, in small steps: entries are few where a report is read."""

from __future__ import annotations

import time
from collections.abc import Callable

from core.ledger.usage.report import FOLDED
from tasks.runtime import Runtime

#: For all steps of one run.
TIME_LIMIT_S = 1.0


def fold_usage(runtime: Runtime) -> None:
    """Fold entries, as one run of the reconciler; what is left is for the next."""
    in_steps(runtime.ledger.usage.fold, each=FOLDED)


def in_steps(fold: Callable[[], int], *, each: int) -> None:
    """Fold until there is nothing left, or the time for it is over.

    Parameters:
      fold: returns how many entries it has folded; fewer than `each`: there are no more.
    """
    ends_at_s = time.monotonic() + TIME_LIMIT_S
    while time.monotonic() < ends_at_s:
        began_s = time.monotonic()
        if fold() < each:
            return
        # SQLite has one write lock: others get it for as long as we had it.
        time.sleep(time.monotonic() - began_s)
