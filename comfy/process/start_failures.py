"""How often one instance failed lately: the pause before its next start, and when more starts are no use."""

from __future__ import annotations

import time
from collections import deque


class Failures:
    """The failures of one instance. Used by one thread."""

    def __init__(self, *, first_pause_s: float, longest_pause_s: float, limit: int, window_s: float) -> None:
        """Parameters:
        first_pause_s, longest_pause_s: the pause before a restart, doubled after each until the longest.
        limit, window_s: so many failures within so many seconds are too many.
        """
        self._first_pause_s, self._longest_pause_s = first_pause_s, longest_pause_s
        self._window_s = window_s
        self._pause_s = first_pause_s
        #: When the newest ones happened, on the monotonic clock.
        self._times_s: deque[float] = deque(maxlen=limit)

    def add(self) -> None:
        """Count a failure now."""
        self._times_s.append(time.monotonic())

    def are_too_many(self) -> bool:
        """Return whether the limit was reached within the window."""
        times_s = self._times_s
        return len(times_s) == times_s.maxlen and times_s[-1] - times_s[0] <= self._window_s

    def next_pause_s(self) -> float:
        """Return the pause that is due now; the one after it is longer."""
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, self._longest_pause_s)
        return pause_s

    def shorten_pauses(self) -> None:
        """Begin with the first pause again: the instance has lived for a while."""
        self._pause_s = self._first_pause_s

    def forget(self) -> None:
        """Forget all failures."""
        self._times_s.clear()
        self.shorten_pauses()
