"""A value that is loaded again when it is about a second old, by one caller, while the others use the old one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: No more than this share of the time goes into loading a value: one that takes long is used for longer.
LOADING_SHARE = 0.1
#: But not for longer than this because of that.
LONGEST_S = 5.0


class CachedValue(Generic[T]):
    """Keeps what `load` returned for `max_age_s`, or longer where loading takes more than a tenth of that.

    Many requests want the same small facts (how many jobs wait, which catalogues there are). Each would cost a query.
    """

    def __init__(self, load: Callable[[], T], *, max_age_s: float) -> None:
        self._load = load
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._kept: tuple[T] | None = None
        self._stale_at_s = 0.0
        #: Until then loading it again would take too much of the time.
        self._rests_until_s = 0.0

    def get(self) -> T:
        """Return the value, at most as old as said above, or a little older while another caller loads it.

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

    def renew_if_due(self) -> bool:
        """Load it now unless that would take too much of the time; return whether it did. Raises what `load` does."""
        if time.monotonic() < self._rests_until_s:
            return False
        with self._lock:
            # Others may have waited for the same.
            if time.monotonic() < self._rests_until_s:
                return False
            self._renewed()
        return True

    def _renewed(self) -> T:
        began_s = time.monotonic()
        value = self._load()
        loaded_s = time.monotonic()
        rest_s = min(LONGEST_S, (loaded_s - began_s) / LOADING_SHARE)
        self._kept = (value,)
        self._rests_until_s = loaded_s + rest_s
        self._stale_at_s = loaded_s + max(self._max_age_s, rest_s)
        return value
