"""Publishing beside the requests: nobody waits for the broker, and what it did not take is tried again."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

from api.patience import at_most, interrupt_after
from api.submit import TurnPublisher
from core.errors import BrokerUnavailable
from core.job import Job

log = logging.getLogger(__name__)

#: A silent broker is taken for lost after this; the transport then drops the connection and tries a new one, once.
SILENCE_S = 2.0
#: Longest time one message may take, whatever happens.
PUBLISH_S = 5.0
#: Pause before a broker that took nothing is tried again.
RETRY_S = 2.0
#: Messages kept for a broker that is away. More are left to the reconciler, which finds their jobs in the ledger.
BACKLOG = 10_000

Publish = Callable[[], bool | None]


class BackgroundPublisher:
    """One thread (a greenlet, under gevent) that publishes for all requests of a process, in their order.

    A job is in the ledger before its turn is put here, so a process that dies with a full queue loses nothing. One
    publisher needs one connection; many at once, interrupted by their time limits, would wear out kombu's pool.

    py-amqp 5.4 limits reads with SO_RCVTIMEO, which has no effect on gevent's sockets: the wait for RabbitMQ's confirm
    would never end. Hence the time limits here.
    """

    def __init__(self, publisher: TurnPublisher) -> None:
        self._publisher = publisher
        self._queue: queue.Queue[Publish] = queue.Queue(BACKLOG)
        self._refused: deque[Publish] = deque(maxlen=BACKLOG)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def turn(self, job_id: str) -> bool:
        """One more job waits; False when the queue is full."""
        return self._put(lambda: self._publisher.turn(job_id))

    def notify(self, job_id: str) -> bool:
        """A job has webhooks to send; False when the queue is full."""
        return self._put(lambda: self._publisher.notify(job_id))

    def cancel(self, job: Job) -> None:
        """The worker that runs this job shall look at it now."""
        self._put(lambda: self._publisher.cancel(job))

    def _put(self, publish: Publish) -> bool:
        if self._thread is None:
            # Here and not in the constructor: a thread does not survive gunicorn's fork.
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
                    self._thread.start()
        try:
            self._queue.put_nowait(publish)
        except queue.Full:
            return False
        return True

    def _run(self) -> None:
        while True:
            try:
                publish = self._queue.get(timeout=RETRY_S if self._refused else None)
            except queue.Empty:
                self._try_again()
                continue
            # Behind what waits already: a broker that is away is not asked once for each message.
            if self._refused or _bounded(publish) is False:
                self._refused.append(publish)
            if self._refused:
                self._try_again()

    def _try_again(self) -> None:
        while self._refused:
            if _bounded(self._refused[0]) is False:
                threading.Event().wait(RETRY_S)
                return
            self._refused.popleft()


def _bounded(publish: Publish) -> bool | None:
    silent = TimeoutError("The broker does not answer.")
    try:
        with (
            at_most(PUBLISH_S, BrokerUnavailable("The broker does not answer.")),
            # An ordinary error to the code below us: it closes the connection it happened on.
            interrupt_after(SILENCE_S, silent),
        ):
            return publish()
    except (BrokerUnavailable, TimeoutError) as exc:
        log.warning("broker did not take a message; it will be published later (%s)", exc)
        return False
