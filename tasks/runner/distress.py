"""What the pool process and the main process of a GPU worker say to each other: pipes, for both are on one machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from core.background import Loop

#: Linux never mixes writes of up to 4096 bytes to one pipe; this is well below.
MAX_MESSAGE_BYTES = 1000


class LinePipe:
    """Made before the fork; one process says lines of text, the other listens."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def say(self, what: str) -> None:
        """Send one line of text; what is too long is cut. It is lost where the listener does not read: nobody waits."""
        message = what.replace("\n", " ").encode(errors="replace")[:MAX_MESSAGE_BYTES]
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, message + b"\n")

    def listen(self, hear: Callable[[str], None]) -> None:
        """Call `hear` with each message, in a daemon thread, for as long as this process lives."""
        messages = os.fdopen(self._reader, errors="replace")

        def hear_next() -> None:
            message = messages.readline()
            if message:
                hear(message.rstrip("\n"))
            else:
                loop.end()

        loop = Loop("line", hear_next)
        loop.start()


class CondemnPipe(LinePipe):
    """The pool process says why the instance has to be replaced. Reasons are too few to fill the pipe."""


class RecallPipe(LinePipe):
    """The main process says which prompt is to be interrupted, which may not be posted yet."""
