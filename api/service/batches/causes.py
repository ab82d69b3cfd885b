"""Why jobs of batches failed: asked of the ledger for each request, but of many no more often than it can bear."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from api.http.cached import CachedValue
from api.http.time_limits import ledger_time_limit
from core.ledger import Ledger
from core.records.batch import Batch, ErrorGroup
from core.records.job import EXPIRED, FAILED

#: So many jobs that failed are looked at each time. The ledger reads the error of each one, which may be long.
FEW = 200
#: Batches of which a look is kept.
MOST_KEPT = 100


class Causes:
    """The errors of batches, for the routes of one process."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kept: dict[str, CachedValue[list[ErrorGroup]]] = {}

    def of(self, batch: Batch) -> list[ErrorGroup]:
        """Return why jobs of a batch failed or expired; where very many did, as of a few seconds ago.

        Raises: LedgerUnavailable.
        """
        look = partial(self._ledger.batches.errors, batch)
        # The slot first: who has one must not wait for somebody who waits for one.
        with ledger_time_limit():
            if batch.counts.get(FAILED, 0) + batch.counts.get(EXPIRED, 0) <= FEW:
                return look()
            return self._kept_look(batch.id, look).get()

    def _kept_look(self, batch_id: str, look: Callable[[], list[ErrorGroup]]) -> CachedValue[list[ErrorGroup]]:
        found = self._kept.get(batch_id)
        if found is not None:
            return found
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        # It takes no more than a part of the time, however often it is asked for.
        return self._kept.setdefault(batch_id, CachedValue(look, max_age_s=0.0))
