"""A limit on the time that one exchange takes as a whole: its connections are cut when it is over."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time

from core.background import Loop


class Deadline:
    """Cuts sockets when the time is up, whatever is being waited for on them.

    The timeouts of a socket begin anew with each byte: a peer that drips bytes is never too late for them.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        """Parameters: limit_s - seconds from now; None: there is no limit until `begin`."""
        self._changed = threading.Condition()
        self._ends_at_s = math.inf
        #: When the thread looks next.
        self._looks_at_s = math.inf
        self._sockets: list[socket.socket] = []
        if limit_s is not None:
            self.begin(limit_s)
        self._loop = Loop("deadline", self._look)
        self._loop.start()

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._ends_at_s

    @property
    def left_s(self) -> float:
        """Seconds left; never so few that a socket takes them for no timeout at all."""
        return max(self._ends_at_s - time.monotonic(), 0.001)

    def begin(self, limit_s: float) -> None:
        """Begin an exchange that may take so many seconds from now."""
        with self._changed:
            self._ends_at_s = time.monotonic() + limit_s
            # A later end than the thread knows of can wait until it looks: most exchanges wake nobody.
            if self._ends_at_s < self._looks_at_s:
                self._changed.notify()

    def rest(self) -> None:
        """End the exchange; connections are cut again only when the next one is over time."""
        with self._changed:
            self._ends_at_s = math.inf

    def watch(self, connected: socket.socket) -> None:
        """Cut this connection, too, when the time is over."""
        # A copy, since TLS takes the socket itself over. It keeps the connection open until `unwatch`.
        own = connected.dup()
        with self._changed:
            self._sockets.append(own)
        if self.is_over:
            _shut(own)

    def unwatch(self) -> None:
        """Let go of every socket there is."""
        with self._changed:
            for own in self._sockets:
                own.close()
            self._sockets.clear()

    def close(self) -> None:
        """End the watch for good; connections are cut no more."""
        self._loop.end()
        with self._changed:
            self._changed.notify()
        self.unwatch()

    def _look(self) -> None:
        with self._changed:
            if self._loop.is_ending:
                return
            if self.is_over:
                for own in self._sockets:
                    _shut(own)
                # What is watched from now on is cut at once.
                self._looks_at_s = math.inf
            else:
                self._looks_at_s = self._ends_at_s
            is_awaited = self._looks_at_s < math.inf
            self._changed.wait(self.left_s if is_awaited else None)


def _shut(own: socket.socket) -> None:
    # The peer may have gone first.
    with contextlib.suppress(OSError):
        own.shutdown(socket.SHUT_RDWR)
