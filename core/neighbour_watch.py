"""Looks now and then whether the fleet has other machines, for `core.settings.neighbours`; tells them of this one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

from core.background import Loop
from core.errors import LedgerUnavailable
from core.ledger.machines import Machines
from core.settings.neighbours import company

log = logging.getLogger(__name__)

#: Between looks, and between words of ours: who starts somewhere else is noticed within both together.
LOOK_S = 5.0
NOTE_S = 15.0


class NeighbourWatch:
    """One process's watch, from `start` until `close`."""

    def __init__(
        self, machines: Machines, *, time_limit: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """Parameters: time_limit - ends what the ledger does not answer."""
        self._machines = machines
        self._time_limit = time_limit
        self._noted_at_s = float("-inf")
        self._loop = Loop("neighbours", self._step, pause_s=LOOK_S)

    def start(self) -> None:
        """Look once, so that what follows goes by it, and go on looking."""
        self._step()
        self._loop.start()

    def close(self) -> None:
        """Look no more."""
        self._loop.end()
        self._loop.join(LOOK_S)

    def look(self) -> None:
        """Say that this machine is there, if that was some time ago, and look for others. Raises LedgerUnavailable."""
        if time.monotonic() - self._noted_at_s > NOTE_S:
            self._machines.note()
            self._noted_at_s = time.monotonic()
        is_there = self._machines.others() > 0
        if is_there != company.is_there:
            log.info("The fleet has %s.", "other machines" if is_there else "no other machine any more")
        company.is_there = is_there

    def _step(self) -> None:
        # Others say that the ledger is away, and what was seen last holds until it is back.
        with suppress(LedgerUnavailable), self._time_limit():
            self.look()
