"""One try at a webhook: a POST within all its limits, what the answer means, and the threads that post."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, LocationValueError, ReadTimeoutError, SSLError

from core.background import Loop
from core.clock import now_ms
from core.errors import AddressRefused
from core.ledger.webhooks.outbox import Post, TryResult
from core.outbound import Policy
from core.outbound.retry_after import parse_retry_after
from core.outbound.sessions import KeptConnection

CONNECT_TIMEOUT_S = 5.0
#: Of the answer's body; the rest is not waited for.
MAX_ANSWER_BYTES = 64 * 1024
#: Answers after which `Retry-After` counts.
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
#: A thread that had nothing to do for so long hangs up and ends.
REST_S = 3.0
#: No more of them than this rest at once.
MAX_RESTING = 64


class ConnectionThread:
    """A thread that posts to one receiver, one thing after the other, over a connection that it keeps."""

    def __init__(self, receiver: str, on_idle: Callable[[ConnectionThread], None]) -> None:
        """Parameters: on_idle - hears, in that thread, that it waits for work or its dismissal since `REST_S`."""
        self.receiver = receiver
        self._on_idle = on_idle
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._connections: dict[Policy, KeptConnection] = {}
        self._loop = Loop("post", self._work_on, last=self._hang_up)
        self._loop.start()

    def carry(self, work: Callable[[], None]) -> None:
        """Do this in its thread, after all that it was given before."""
        self._inbox.put(work)

    def dismiss(self) -> None:
        """End when all is done."""
        self._inbox.put(None)

    def connection(self, policy: Policy) -> KeptConnection:
        """Return the connection that was made under this policy; for work of its thread."""
        if policy not in self._connections:
            self._connections[policy] = KeptConnection(policy)
        return self._connections[policy]

    def _work_on(self) -> None:
        work = self._next()
        if work is None:
            self._loop.end()
        else:
            work()

    def _hang_up(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._inbox.get(timeout=REST_S)
        except queue.Empty:
            # Ending now could lose what is handed over at this moment.
            self._on_idle(self)
            return self._inbox.get()


class ConnectionThreads:
    """The threads that post, by receiver. Used by one thread alone."""

    def __init__(self, on_idle: Callable[[ConnectionThread], None]) -> None:
        self._on_idle = on_idle
        self._all: set[ConnectionThread] = set()
        self._resting: dict[str, list[ConnectionThread]] = {}
        self._resting_count = 0

    def acquire(self, receiver: str) -> ConnectionThread:
        """Return a free thread, with a connection to the receiver if there is one."""
        resting = self._resting.get(receiver)
        if resting:
            # The last one back: its connection is the least likely to be closed by now.
            thread = resting[-1]
            self._take(thread)
            return thread
        thread = ConnectionThread(receiver, self._on_idle)
        self._all.add(thread)
        return thread

    def rest(self, thread: ConnectionThread) -> None:
        """Keep a thread that has done its work for later posts, or end it if enough rest."""
        if self._resting_count >= MAX_RESTING:
            self._dismiss(thread)
        else:
            self._resting.setdefault(thread.receiver, []).append(thread)
            self._resting_count += 1

    def release(self, thread: ConnectionThread) -> None:
        """End a thread that has been idle for long; nothing happens if it has work again."""
        if thread in self._resting.get(thread.receiver, ()):
            self._take(thread)
            self._dismiss(thread)

    def dismiss(self, thread: ConnectionThread) -> None:
        """End a thread that stumbled over its work: its connections may be in any state."""
        self._dismiss(thread)

    def close(self) -> None:
        """End each thread when it has done its work."""
        for thread in self._all:
            thread.dismiss()

    def _take(self, thread: ConnectionThread) -> None:
        resting = self._resting[thread.receiver]
        resting.remove(thread)
        self._resting_count -= 1
        if not resting:
            del self._resting[thread.receiver]

    def _dismiss(self, thread: ConnectionThread) -> None:
        self._all.discard(thread)
        thread.dismiss()


def send(post: Post, headers: Mapping[str, str], connection: KeptConnection, *, limit_s: float) -> TryResult:
    """Post a delivery once; redirects are not followed.

    A receiver that closes a kept connection without an answer is sent the same again over a new one. It may get it
    twice then, as with any try that fails late, and knows it by its `webhook-id`.

    Parameters:
      limit_s: seconds after which the exchange is cut, wherever it is.
    """
    at_ms, begun_s = now_ms(), time.monotonic()
    status_code, error, retry_after_s = None, None, None
    try:
        with connection.post(
            post.url,
            post.body.encode(),
            {"Content-Type": "application/json", "User-Agent": "Comfyline", **headers},
            limit_s=limit_s,
            connect_timeout_s=CONNECT_TIMEOUT_S,
        ) as answer:
            status_code = answer.status
            if status_code in BUSY:
                retry_after_s = parse_retry_after(answer.headers.get("Retry-After"))
            _drain(answer)
    except AddressRefused as exc:
        error = str(exc)
    except HTTPError as exc:
        error = _in_words(exc, is_late=time.monotonic() - begun_s >= limit_s, limit_s=limit_s)
    if status_code is not None:
        error = None if HTTPStatus.OK <= status_code < HTTPStatus.MULTIPLE_CHOICES else f"answered {status_code}"
    return TryResult(
        at_ms=at_ms,
        duration_ms=round((time.monotonic() - begun_s) * 1000),
        status_code=status_code,
        error=error,
        retry_after_s=retry_after_s,
        is_final=status_code == HTTPStatus.GONE,
    )


def _drain(answer: BaseHTTPResponse) -> None:
    """Read a little of the body, so that a receiver can finish; how it ends does not matter any more."""
    try:
        answer.read(MAX_ANSWER_BYTES)
    except (HTTPError, OSError):
        return


def _in_words(error: HTTPError, *, is_late: bool, limit_s: float) -> str:
    if is_late or isinstance(error, ReadTimeoutError):
        return f"no answer within {limit_s:g} s"
    if isinstance(error, SSLError):
        return "no trusted TLS connection"
    if isinstance(error, LocationValueError):
        return f"not sent: {type(error).__name__}"
    return "no connection, or it broke off"
