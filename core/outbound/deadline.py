"""A limit on the time that one exchange takes as a whole: its connections are cut when it is over."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Deadline:
    """Cuts sockets when the time is up, whatever is being waited for on them.

    The timeouts of a socket begin anew with each byte: a peer that drips bytes is never too late for them.
    """

    def __init__(self, limit_s: float) -> None:
        self._ends_at_s = time.monotonic() + limit_s
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(limit_s, self._cut)
        self._timer.daemon = True
        self._timer.start()

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._ends_at_s

    @property
    def left_s(self) -> float:
        """Seconds left; never so few that a socket takes them for no timeout at all."""
        return max(self._ends_at_s - time.monotonic(), 0.001)

    def watch(self, connected: socket.socket) -> None:
        """Cut this one, too."""
        # A copy, since TLS takes the socket itself over. It keeps the connection open until `close`.
        own = connected.dup()
        with self._lock:
            self._sockets.append(own)
        if self.is_over:
            _shut(own)

    def close(self) -> None:
        """The exchange has ended; nothing is cut any more."""
        self._timer.cancel()
        with self._lock:
            for own in self._sockets:
                own.close()
            self._sockets.clear()

    def _cut(self) -> None:
        with self._lock:
            for own in self._sockets:
                _shut(own)


def _shut(own: socket.socket) -> None:
    # The peer may have gone first.
    with contextlib.suppress(OSError):
        own.shutdown(socket.SHUT_RDWR)
