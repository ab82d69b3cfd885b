"""What a GPU worker's pool process has to say to its main process: a pipe, for both are on one machine."""

from __future__ import annotations

import os
from collections.abc import Callable

from core.background import Loop

#: Linux never mixes writes of up to 4096 bytes to one pipe; this is well below.
MAX_MESSAGE_BYTES = 1000


class CondemnPipe:
    """Made before the fork; the pool process says, the main process listens."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def say(self, what: str) -> None:
        """Send one line of text; what is too long is cut. Reasons are too few to fill the pipe."""
        message = what.replace("\n", " ").encode(errors="replace")[:MAX_MESSAGE_BYTES]
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
