"""How a model file comes along: what the ledger is told of it, and whether its source is too slow to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from core.records.model_file import ModelCopy, ModelFile

#: How often the ledger is told how a file comes along.
TELL_S = 1.0
#: What counts as "of late" in the speed, in seconds.
LATE_S = 5.0
#: A source that sends less than this, in bytes per second, over so long gives way.
FLOOR_BYTES_S, FLOOR_S = 10_000, 30.0
#: One that sends less than this for so long holds up nobody else.
SLOW_S = 3.0
#: So much of a file is nearly all of it.
NEARLY = 0.9


class Progress:
    """How one file comes along. Told in the thread that fetches it; asked in any."""

    def __init__(self, host: str, entry: ModelFile, put: Callable[[ModelCopy], None]) -> None:
        """Parameters:
        put: tells the ledger.
        """
        self._copy = ModelCopy(host=host, path=entry.path, state="fetching", size_bytes=entry.size_bytes)
        self._put = put
        self._told_s = 0.0
        self._begun_s = time.monotonic()
        self._size: int | None = None
        #: `(when, how many bytes were there)`, of late, and at first and at last.
        self._seen: list[tuple[float, int]] = []
        self._first = self._last = (0.0, 0)

    def begin(self) -> None:
        """Tell that it is on its way."""
        self._put(self._copy)

    def tell(self, done: int, size: int | None) -> None:
        """Note how many bytes are there, and how many there will be; the ledger is told about once a second."""
        now = time.monotonic()
        self._first, self._last = self._first if self._seen else (now, done), (now, done)
        self._size = size
        if not self._seen or now - self._seen[-1][0] >= TELL_S / 2:
            # Another list: who asks in another thread has the one before.
            self._seen = [*self._seen, (now, done)]
        while len(self._seen) > 2 and now - self._seen[1][0] > FLOOR_S:
            self._seen = self._seen[1:]
        if now - self._told_s < TELL_S:
            return
        self._told_s = now
        first_s, first = next(each for each in self._seen if now - each[0] <= LATE_S or each is self._seen[-1])
        bytes_s = (done - first) / (now - first_s) if now > first_s else 0.0
        size = self._copy.size_bytes if size is None else size
        self._put(replace(self._copy, done_bytes=done, size_bytes=size, bytes_s=max(0.0, bytes_s)))

    def learn(self, note: Callable[[int, float], None]) -> None:
        """Note how many bytes came in how many seconds: those that an earlier fetch had left are none of them."""
        (first_s, first), (last_s, last) = self._first, self._last
        note(last - first, last_s - first_s)

    @property
    def is_slow(self) -> bool:
        """It hardly comes, now."""
        return self._is_below_floor(SLOW_S)

    @property
    def is_too_slow(self) -> bool:
        """It has hardly come for so long that it hardly will."""
        return self._is_below_floor(FLOOR_S)

    @property
    def is_nearly_there(self) -> bool:
        return self._size is not None and self._last[1] >= NEARLY * self._size

    def came_bytes(self, within_s: float) -> int:
        """Return how many bytes have come within so many seconds."""
        seen, since_s = self._seen, time.monotonic() - within_s
        if not seen:
            return 0
        before = [done for when_s, done in seen if when_s <= since_s]
        return max(0, self._last[1] - (before[-1] if before else seen[0][1]))

    def _is_below_floor(self, within_s: float) -> bool:
        if time.monotonic() - self._begun_s < within_s or self._last[1] == self._size:
            # All of it is there, and it is hashed or written on.
            return False
        return self.came_bytes(within_s) < FLOOR_BYTES_S * within_s
