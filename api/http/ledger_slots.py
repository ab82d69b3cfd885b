"""Slots at the ledger: so many requests use it at once, the others wait in line for as long as it answers any."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import LedgerUnavailable


class LedgerSlots:
    """A line of waiting requests, first come, first served.

    A thousand clients that come at the same moment want more connections than a database has. A request is refused
    only when no request at all was answered for as long as it would have waited alone.

    Parameters:
      places: slots that may be held at once.
      silence_s: time without any answer after which the ledger counts as away.
      longest_s: longest wait of one request, however well the ledger answers.
    """

    def __init__(self, *, places: int, silence_s: float, longest_s: float) -> None:
        self._silence_s = silence_s
        self._longest_s = longest_s
        self._lock = threading.Lock()
        self._free = places
        self._line: deque[threading.Event] = deque()
        self._answered_s = float("-inf")
        self._mine = threading.local()

    @contextmanager
    def slot(self) -> Iterator[float]:
        """Wait for a slot and hold it for the block; a block inside another one uses the outer one's slot.

        Yields: how many seconds the block may take.

        Raises:
          LedgerUnavailable: no slot came free in time, or the block raised it.
        """
        if self.has_slot():
            yield self._silence_s
            return
        begun_s = time.monotonic()
        self._wait(begun_s)
        self._mine.has_slot = True
        has_answered = True
        try:
            yield self._left_s(begun_s)
        except LedgerUnavailable:
            has_answered = False
            raise
        finally:
            self._mine.has_slot = False
            with self._lock:
                if has_answered:
                    self._answered_s = time.monotonic()
                self._pass_on()

    def has_slot(self) -> bool:
        """Return whether the calling thread holds a slot."""
        return getattr(self._mine, "has_slot", False)

    def _left_s(self, begun_s: float) -> float:
        """Return the time for the block: all of it if the ledger answered meanwhile, else what the wait has left.

        A tenth is always left, so that the block may find out whether the ledger is back.
        """
        if self._answered_s >= begun_s:
            return self._silence_s
        return max(self._silence_s / 10, self._silence_s - (time.monotonic() - begun_s))

    def _wait(self, begun_s: float) -> None:
        with self._lock:
            if self._free and not self._line:
                self._free -= 1
                return
            mine = threading.Event()
            self._line.append(mine)
        try:
            pause_s = self._silence_s
            while not mine.wait(pause_s):
                now_s = time.monotonic()
                quiet_s = now_s - max(self._answered_s, begun_s)
                if quiet_s >= self._silence_s or now_s - begun_s >= self._longest_s:
                    raise LedgerUnavailable("The ledger is busy: others wait before this request.")
                pause_s = self._silence_s - quiet_s
        except BaseException:
            # Interrupted, or over its time; the slot may have come at the same moment.
            with self._lock:
                if mine in self._line:
                    self._line.remove(mine)
                else:
                    self._pass_on()
            raise

    def _pass_on(self) -> None:
        if self._line:
            self._line.popleft().set()
        else:
            self._free += 1
