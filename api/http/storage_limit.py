"""Ends what waits for a bucket that is away: a client has its 503 within some seconds, also in mid-upload."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
from gevent import monkey

from core.storage.folders import BucketFault
from core.storage.marker import StorageMarker

#: Who has waited for so long has it looked at whether the bucket is there, and then as often again. A look that is not
#: answered takes 5 s.
SUSPECT_S = 2.0
LOOK_EVERY_S = 1.0


@contextmanager
def while_storage_is_there(marker: StorageMarker) -> Iterator[None]:
    """Raise BucketFault where the block stands when the bucket answers nothing else either.

    A bucket that is only slow is waited for. It works in greenlets; in plain threads nothing can interrupt a blocked
    read, and the block takes as long as it takes.
    """
    if not monkey.is_module_patched("socket"):
        yield
        return
    watch = _Watch(marker)
    try:
        yield
    except gevent.Timeout as exc:
        if exc is not watch.over:
            raise
        raise BucketFault(errno.ETIMEDOUT, watch.problem) from exc
    finally:
        watch.end()


class _Watch:
    """Looks at the storage while one greenlet waits for it."""

    def __init__(self, marker: StorageMarker) -> None:
        self._marker = marker
        #: Thrown into that greenlet. No `Exception`, or botocore would take it for an error of the connection.
        self.over = gevent.Timeout(None)
        self.problem = ""
        self._waiter = gevent.getcurrent()
        self._is_over = self._is_looking = False
        # A timer costs little where nothing comes of it.
        self._tick = gevent.get_hub().loop.timer(SUSPECT_S, LOOK_EVERY_S)
        self._tick.start(self._suspect)

    def end(self) -> None:
        """Leave the greenlet alone from now on."""
        self._is_over = True
        self._tick.stop()
        self._tick.close()

    def _suspect(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            gevent.spawn(self._look)

    def _look(self) -> None:
        # One look serves all who wait: with many of them it is not asked for more often.
        problem = self._marker.problem(within_s=SUSPECT_S)
        self._is_looking = False
        if problem is not None:
            self.problem = problem
            # From the hub, where nothing comes between the question whether it still waits and the interruption.
            gevent.get_hub().loop.run_callback(self._interrupt)

    def _interrupt(self) -> None:
        if not self._is_over:
            self._waiter.throw(self.over)
