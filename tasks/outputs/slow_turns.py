"""Turns whose storage is asked for long: whether it is away is found out beside them, and told on their jobs at once.

What a turn waits for fails after many seconds only, and several times. Whoever waits for the job wants to know earlier.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.background import Loop
from core.storage.marker import StorageMarker

#: A turn that has taken so long is suspected to wait for the storage, which is then looked at as often.
SUSPECT_S = 2.0
LOOK_S = 1.0


class SlowTurns:
    """For one io worker. Safe to share between threads."""

    def __init__(self, storage: StorageMarker) -> None:
        self._storage = storage
        #: When each turn began that has not ended, and what tells its job.
        self._turns: dict[object, tuple[float, Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self._loop = Loop("slow-turns", self._watch, pause_s=None)

    @contextmanager
    def watched(self, tell: Callable[[], None]) -> Iterator[None]:
        """Have a job told, once, if the storage is away while this block lasts.

        Parameters:
          tell: may be called by another thread, also right after the block.
        """
        turn = object()
        with self._lock:
            self._turns[turn] = time.monotonic(), tell
        self._loop.start()
        self._loop.wake()
        try:
            yield
        finally:
            with self._lock:
                self._turns.pop(turn, None)

    def close(self) -> None:
        """Look no more."""
        self._loop.end()

    def _watch(self) -> None:
        """Look for as long as there are turns."""
        while self._turns and not self._loop.rest(LOOK_S):
            if self._slow() and self._storage.problem(within_s=SUSPECT_S) is not None:
                for tell in self._slow(taken=True):
                    tell()

    def _slow(self, *, taken: bool = False) -> list[Callable[[], None]]:
        """Return what tells the jobs of turns that take long; each is told once, by whoever has `taken` it."""
        long_ago_s = time.monotonic() - SUSPECT_S
        with self._lock:
            found = {turn: tell for turn, (began_s, tell) in self._turns.items() if began_s < long_ago_s}
            if taken:
                for turn in found:
                    del self._turns[turn]
        return list(found.values())
