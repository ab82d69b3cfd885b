"""Claims jobs before the GPU needs them: one to stand on deck, and more where their input files take a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor

from core.background import failure_of
from core.errors import TransientError
from core.ledger.claims import Claims
from tasks.runner.claimed.lineup import Lineup
from tasks.runner.claimed.run import Run

log = logging.getLogger(__name__)

#: The ledger is asked at most so often whether another job waits; a prompt may give a sign of life every millisecond.
LOOK_EVERY_S = 0.02
#: The same where jobs wait and none is for this instance now: they may be behind gates for hours.
NOTHING_S = 0.2
#: After a look that failed.
REST_S = 1.0


class LookAhead:
    """For one runner. Safe to share between threads."""

    def __init__(
        self,
        claims: Claims,
        lineup: Lineup,
        *,
        look_ahead_s: float,
        aside: Executor,
        may_claim: Callable[[], bool],
        claim: Callable[[], Run | None],
    ) -> None:
        """Parameters:
        look_ahead_s: one is claimed when the running one should end within so many seconds.
        aside: runs what no prompt may wait for.
        may_claim: whether several may be claimed now.
        claim: claims one ahead of time and has its files fetched, or posts it; None: there is none.
        """
        self._claims = claims
        self._lineup = lineup
        self._look_ahead_s = look_ahead_s
        self._aside = aside
        self._may_claim = may_claim
        self._claim = claim
        self._lock = threading.Lock()
        #: Somebody claims, or is about to.
        self._is_filling = False
        self._not_before_s = float("-inf")

    def consider(self, run: Run) -> None:
        """At a sign of life of the running prompt: put one job on deck, if it is about to end."""
        self.fill_soon()
        expected_s = self._lineup.known_s(run)
        if run.started_s is None or expected_s is None or run.names_own_files:
            return
        if expected_s - (time.monotonic() - run.started_s) > self._look_ahead_s:
            return
        # One prompt behind the running one is all that helps.
        if self._lineup.has_next() or time.monotonic() < self._not_before_s:
            return
        try:
            if not self._claims.anything_waits():
                self._not_before_s = time.monotonic() + LOOK_EVERY_S
            elif self._claim() is None:
                self._not_before_s = time.monotonic() + NOTHING_S
        except TransientError as exc:
            log.info("looking ahead failed; the next turn will do: %s", exc)

    def fill_soon(self) -> None:
        """Claim several jobs if files take their time. Does not wait."""
        if not self.wants_more() or time.monotonic() < self._not_before_s:
            return
        with self._lock:
            if self._is_filling:
                return
            self._is_filling = True
        self._aside.submit(failure_of, self._fill, "looking ahead")

    def wants_more(self) -> bool:
        """Return whether several jobs are to be claimed ahead."""
        return self._may_claim() and self._lineup.wants_more()

    def _fill(self) -> None:
        self._not_before_s = time.monotonic() + REST_S
        try:
            while self.wants_more():
                if not self._claims.anything_waits() or self._claim() is None:
                    break
            self._not_before_s = time.monotonic() + LOOK_EVERY_S
        finally:
            self._is_filling = False
