"""A value that is loaded again when it is about a second old, by one caller, while the others use the old one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CachedValue(Generic[T]):
    """Keeps what `load` returned for `max_age_s`.

    Many requests want the same small facts (how many jobs wait, which catalogues there are). Each would cost a query.
    """

    def __init__(self, load: Callable[[], T], *, max_age_s: float) -> None:
        self._load = load
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._kept: tuple[T] | None = None
        self._stale_at_s = 0.0

    def get(self) -> T:
        """Return the value, at most `max_age_s` old, or a little older while another caller loads it.

        The first callers wait for each other: there is nothing older to use. Raises what `load` does.
        """
        kept = self._kept
        if kept is not None and time.monotonic() < self._stale_at_s:
            return kept[0]
        if not self._lock.acquire(blocking=kept is None):
            assert kept is not None
            return kept[0]
        try:
            if self._kept is None or time.monotonic() >= self._stale_at_s:
                return self._renewed()
            return self._kept[0]
        finally:
            self._lock.release()

    def renew(self) -> None:
        """Load it now, however old it is. Raises what `load` does."""
        with self._lock:
            self._renewed()

    def _renewed(self) -> T:
        value = self._load()
        self._kept = (value,)
        self._stale_at_s = time.monotonic() + self._max_age_s
        return value
