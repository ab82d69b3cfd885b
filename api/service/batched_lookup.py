"""One look for many: what several ask for while a look is under way is answered by the next one, all at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from api.http.time_limits import has_ledger_slot, ledger_time_limit
from core.errors import LedgerUnavailable

T = TypeVar("T")

#: Things asked for in one look: PostgreSQL and SQLite both take this many parameters.
CHUNK = 500


@dataclass(kw_only=True, eq=False)
class _Batch(Generic[T]):
    """Those who wait for one look."""

    keys: set[str] = field(default_factory=set)
    found: Mapping[str, T] | None = None
    error: LedgerUnavailable | None = None


class Batched(Generic[T]):
    """Answers one key at a time to its callers, and asks for many at once.

    A caller who is alone asks for itself at once: nobody waits for others to come. Nor does one who has its turn at the
    ledger already, for those others may be waiting for that turn.

    Parameters:
      load: what there is in the ledger under each key; keys that stand for nothing are left out.
    """

    def __init__(self, load: Callable[[Collection[str]], Mapping[str, T]]) -> None:
        self._load = load
        self._lock = threading.Lock()
        #: Held while a look is under way; whoever gets it next makes the next one.
        self._looking = threading.Lock()
        self._next: _Batch[T] = _Batch()
        self._failures = 0

    def get(self, key: str) -> T | None:
        """Return what is there now, as of a look that began after this call; None if there is nothing.

        Raises: LedgerUnavailable - also if a look that began before this one's turn failed.
        """
        if has_ledger_slot():
            return self._load([key]).get(key)
        with self._lock:
            failures = self._failures
            if len(self._next.keys) >= CHUNK:
                self._next = _Batch()
            batch = self._next
            batch.keys.add(key)
        with self._looking:
            if batch.found is None and batch.error is None:
                if failures != self._failures:
                    # Those before have waited all the time there is for that.
                    raise LedgerUnavailable("The ledger does not answer.")
                self._look(batch)
        if batch.error is not None:
            raise LedgerUnavailable(batch.error.message) from batch.error
        assert batch.found is not None
        return batch.found.get(key)

    def _look(self, batch: _Batch[T]) -> None:
        # Those who are about to ask are let in first: where the ledger is a file, nobody gets to run while it is read.
        time.sleep(0)
        with self._lock:
            if self._next is batch:
                # Whoever comes from here on may want to know what happens from here on.
                self._next = _Batch()
        try:
            with ledger_time_limit():
                batch.found = self._load(batch.keys)
        except LedgerUnavailable as exc:
            batch.error = exc
            self._failures += 1
