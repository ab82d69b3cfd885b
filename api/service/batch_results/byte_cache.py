"""What was made last, up to so many bytes: what was not asked for the longest goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict


class ByteCache:
    """Keeps bytes by keys. Safe to share between threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size_bytes = 0

    def get(self, key: str) -> bytes | None:
        """Return what is kept under a key; None if nothing is."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: str, value: bytes) -> None:
        """Keep something, unless it is larger than all that may be kept."""
        if len(value) > self._max_bytes:
            return
        with self._lock:
            self._size_bytes += len(value) - len(self._kept.pop(key, b""))
            self._kept[key] = value
            while self._size_bytes > self._max_bytes:
                self._size_bytes -= len(self._kept.popitem(last=False)[1])
