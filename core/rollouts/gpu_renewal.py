"""A GPU worker in a rollout: it takes no more jobs, and starts anew when its last one has ended."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

from core.ledger import Ledger
from core.ledger.instances import HEALTHY
from core.records.rollout import ANEW, Renewal

log = logging.getLogger(__name__)


class GpuRenewal:
    """What a rollout wants of one GPU worker. `follow` is called again and again, by one thread."""

    def __init__(self, instance: str, *, turn_away: Callable[[], None], take_again: Callable[[], None]) -> None:
        """Parameters:
        turn_away: takes no more jobs, has what waits behind the running one go elsewhere, and tells the ledger.
        take_again: takes jobs again.
        """
        #: The worker was told to end, and is to start anew then.
        self.is_due = False
        self._instance = instance
        self._is_turning_away = False
        self._turn_away = turn_away
        self._take_again = take_again

    def follow(self, wanted: Renewal | None, ledger: Ledger) -> None:
        """Do what is wanted, as far as it goes now. Raises LedgerUnavailable."""
        if self.is_due:
            return
        if wanted is None:
            if self._is_turning_away:
                self._is_turning_away = False
                self._take_again()
        elif not self._is_turning_away:
            self._is_turning_away = True
            self._turn_away()
        elif wanted == ANEW and self._is_at_rest(ledger):
            log.info("%s: a rollout renews this worker", self._instance)
            self.is_due = True
            os.kill(os.getpid(), signal.SIGTERM)

    def _is_at_rest(self, ledger: Ledger) -> bool:
        # Only what the ledger knows keeps a claim from being made in this moment.
        row = ledger.instances.get(self._instance)
        return row is not None and row.state != HEALTHY and not ledger.instances.holds_jobs(self._instance)
