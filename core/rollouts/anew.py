"""A process that starts anew: the same process, for whoever watches it, with the code that is there now."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

log = logging.getLogger(__name__)

#: The version of the code that this process runs, whatever is installed later.
PROGRAM = importlib.metadata.version("comfyline")


def start_anew(command: Sequence[str] | None = None) -> NoReturn:
    """Become a new process of the same id, to which no supervisor has to do anything. What is open is closed.

    Parameters:
      command: arguments for Python; None: those with which this process was started.
    """
    log.info("starting anew")
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # An ignored or blocked signal stays so, and then nobody could end what comes.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - Path would open each entry's name anew
        if int(name) > sys.stderr.fileno():
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)
    os.execv(sys.executable, [sys.executable, *(sys.orig_argv[1:] if command is None else command)])  # noqa: S606
