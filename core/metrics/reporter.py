"""Carries what a process has counted into the ledger, every few seconds and when it ends.

What it could not hand on it keeps: while the ledger is away nothing is lost but the counts of a process that is killed
meanwhile. Each report has an id, so that one of which nobody knows whether it arrived is not counted twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Protocol

from core.background import Loop
from core.errors import LedgerUnavailable
from core.metrics.tally import Tally, process_tally

#: GPU workers are many, and report less often by this.
GPU_FACTOR = 6
#: An ending process waits no longer for its last report.
LAST_S = 2.0


class ReportTaker(Protocol):
    """Takes reports, see `core.ledger.metrics.sums.MetricSums`."""

    def report(self, report_id: str, amounts: Mapping[str, float]) -> None:
        """Take what was counted. Raises LedgerUnavailable."""

    def note_process(self, process_id: str, *, role: str, host: str, gauges: Mapping[str, float]) -> None:
        """Take how a process is now. Raises LedgerUnavailable."""

    def forget_process(self, process_id: str) -> None:
        """Forget a process that ends. Raises LedgerUnavailable."""


class MetricReporter:
    """One process's reports, from `start` until `close`."""

    def __init__(
        self,
        taker: ReportTaker,
        *,
        role: str,
        host: str,
        every_s: float,
        gauges: Callable[[], Mapping[str, float]] | None = None,
        time_limit: Callable[[], AbstractContextManager[None]] = nullcontext,
        tally: Tally = process_tally,
    ) -> None:
        """Parameters:
        gauges: how the process is, by name; None: nobody asks, as of GPU workers, which have rows of their own.
        time_limit: ends what the ledger does not answer.
        """
        self._taker = taker
        self._role = role
        self._host = host
        self._gauges = gauges
        self._time_limit = time_limit
        self._tally = tally
        self._process_id = str(uuid.uuid4())
        #: The report that is under way, or could not be handed on.
        self._pending: tuple[str, dict[str, float]] | None = None
        self._loop = Loop("metrics", self._step, pause_s=every_s)

    def start(self) -> None:
        """Begin to report."""
        self._loop.start()

    def close(self) -> None:
        """Report what is left, and say that this process ends."""
        self._loop.end()
        self._loop.join(LAST_S)
        with suppress(LedgerUnavailable), self._time_limit():
            self.report()
            # What came between.
            self.report()
            if self._gauges is not None:
                self._taker.forget_process(self._process_id)

    def report(self) -> None:
        """Hand on what was counted. Raises LedgerUnavailable."""
        if self._pending is None and self._tally:
            self._pending = (str(uuid.uuid4()), self._tally.take())
        if self._pending is not None:
            self._taker.report(*self._pending)
            self._pending = None

    def _step(self) -> None:
        # Others say that the ledger is away; the counts are kept until it is back.
        with suppress(LedgerUnavailable), self._time_limit():
            self.report()
            if self._gauges is not None:
                self._taker.note_process(self._process_id, role=self._role, host=self._host, gauges=self._gauges())
