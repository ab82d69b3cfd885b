"""What time it is, and how to do without trusting that: wall clocks are set, by days if need be, and machines sleep.

Three kinds of time are in use. How long something takes here is `time.monotonic`. What is written into the ledger and
compared there is `now_ms`: on PostgreSQL the server's time, one for all machines; on SQLite this machine's. Ages of
files are the wall clock's, so whoever removes old files asks a `WallClock` first whether it was set lately.
"""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

DAY_MS = 24 * 3600 * 1000
#: A wall clock that moved by more than this against the time that passed was set.
SET_BY_S = 60.0
#: What a server said about the time is good for so long. Its clock may be set, too, and everybody has to follow.
TRUST_S = 10.0


class _Clock:
    """The ledger's time in this process."""

    def __init__(self) -> None:
        #: What is to be added to the time since this machine was started; None: the wall clock is good enough.
        self._base_ms: int | None = None
        self._told_at_s = float("-inf")
        #: For tests: how far all clocks are off.
        self.shift_ms = 0

    def now_ms(self) -> int:
        wall_ms = time.time_ns() // 1_000_000 if self._base_ms is None else _since_start_ms() + self._base_ms
        return wall_ms + self.shift_ms

    def follow(self, server_ms: int) -> None:
        """Take the server's word that it is now this late."""
        self._base_ms = server_ms - _since_start_ms()
        self._told_at_s = time.monotonic()

    @property
    def is_told(self) -> bool:
        """Whether the server has said so lately."""
        return time.monotonic() - self._told_at_s < TRUST_S


#: One for each process: all that it writes goes into one ledger.
ledger_clock = _Clock()


def now_ms() -> int:
    """Return the milliseconds since 1970, UTC, by which every time in the ledger is measured."""
    return ledger_clock.now_ms()


class WallClock:
    """This machine's wall clock, as far as it can be believed. For one thread."""

    def __init__(self) -> None:
        self._ahead_s = _ahead_s()
        self._set_at_s = float("-inf")

    def was_set_within(self, seconds: float) -> bool:
        """Return whether it was set since this object was made, within so many seconds. To be asked now and then."""
        ahead_s = _ahead_s()
        moved_s, self._ahead_s = ahead_s - self._ahead_s, ahead_s
        if abs(moved_s) > SET_BY_S:
            log.warning("this machine's clock was set by %.0f s", moved_s)
            self._set_at_s = _since_start_ms() / 1000
        return _since_start_ms() / 1000 - self._set_at_s < seconds


def _since_start_ms() -> int:
    """Unlike the monotonic clock, this one goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _ahead_s() -> float:
    return time.time() + ledger_clock.shift_ms / 1000 - _since_start_ms() / 1000
