"""SIGTERM to a whole process group, as systemd and containers send it, must not kill the job of a draining worker.

The main process drains: it waits for the running job, and gives it back when the grace time is over. Its pool process
gets the signal as well, and would drop the job at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

#: How long a pool process outlives a SIGTERM at most, beyond the time the main process grants its job.
SPARE_S = 15.0
#: An idle one that was told to end while it was busy ends this soon, should its main process not end it.
IDLE_S = 5.0


@contextlib.contextmanager
def spared_from_sigterm(grace_s: float) -> Iterator[None]:
    """Keep SIGTERM from ending the block. For the main thread of a pool process.

    Parameters:
      grace_s: what the main process grants the job.
    """
    told = threading.Event()

    def note(*_: object) -> None:
        if not told.is_set():
            told.set()
            _end_after(grace_s + SPARE_S)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if told.is_set():
            # The result is on its way to the main process by then.
            _end_after(IDLE_S)


def _end_after(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, args=(1,))
    timer.daemon = True
    timer.start()
