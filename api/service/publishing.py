"""Publishing for the requests of one process: one message at a time, and nobody waits for a broker that is away."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from api.http.time_limits import at_most, interrupt_after
from api.service.jobs import TurnPublisher
from core.background import Loop, failure_of
from core.errors import BrokerUnavailable

log = logging.getLogger(__name__)

#: A silent broker is taken for lost after this; the transport then drops the connection and tries a new one, once.
SILENCE_S = 1.0
#: Longest time one message may take, whatever happens.
PUBLISH_S = 2.0
#: Pause before a broker that took nothing is tried again.
RETRY_S = 2.0
#: Messages kept for a broker that is away. More are left to the reconciler, which finds their jobs in the ledger.
BACKLOG = 10_000

Publish = Callable[[], bool | None]


class SparingPublisher(TurnPublisher, Protocol):
    """Publishes, and looks at the fleet once for all jobs that were there when it looked."""

    def turn(self, job_id: str, *, recorded_s: float | None = None) -> bool:
        """Publish the turn of a job that stood in the ledger at this moment of `time.monotonic`."""


class BackgroundPublisher:
    """Publishes at once while the broker is well, else from a thread of its own (a greenlet, under gevent).

    A job is in the ledger before its turn comes here, so a process that dies with messages in hand loses nothing. Only
    one message is under way at a time: many at once, interrupted by their time limits, would wear out kombu's pool. The
    request that finds the broker silent pays for it, once; until the broker is back all others leave theirs behind.

    py-amqp 5.4 limits reads with SO_RCVTIMEO, which has no effect on gevent's sockets: the wait for RabbitMQ's confirm
    would never end. Hence the time limits here.
    """

    def __init__(self, publisher: SparingPublisher) -> None:
        self._publisher = publisher
        #: Messages not published yet, the oldest first.
        self._left: deque[Publish] = deque()
        self._under_way = threading.Lock()
        self._loop = Loop("publisher", self._publish_left, pause_s=None)

    def turn(self, job_id: str) -> bool:
        """Have a turn published; False when too many wait to be published."""
        recorded_s = time.monotonic()
        return self._put(lambda: self._publisher.turn(job_id, recorded_s=recorded_s))

    def pass_gates(self) -> bool:
        """Have idle instances woken for jobs that go through gates: a limit was raised, or a batch goes on.

        That may be many messages: they are left to the thread.
        """
        return self._leave(self._publisher.pass_gates)

    def notify(self, job_id: str) -> bool:
        """Have the sending of a job's webhooks published; False when too many messages wait to be published."""
        return self._put(lambda: self._publisher.notify(job_id))

    def interrupt(self, job_id: str, attempt: int, instance: str) -> None:
        """Have the worker of this instance told to interrupt the job now."""
        self._put(lambda: self._publisher.interrupt(job_id, attempt, instance))

    def store(self, job_id: str, attempt: int, host: str) -> bool:
        """Have a job's files fetched from their host; False when too many messages wait to be published."""
        return self._put(lambda: self._publisher.store(job_id, attempt, host))

    def check_upload(self, upload_id: str) -> bool:
        """Have what a client has put into the bucket looked at; False when too many messages wait to be published."""
        return self._put(lambda: self._publisher.check_upload(upload_id))

    def look_again(self) -> bool:
        """Ask all GPU workers to look for new files now; False, without a second try, if the broker is not well."""
        if self._left or not self._under_way.acquire(blocking=False):
            return False
        try:
            return self._is_taken(self._publisher.look_again)
        finally:
            self._under_way.release()

    def _put(self, publish: Publish) -> bool:
        if not self._left and self._under_way.acquire(blocking=False):
            try:
                # The job is recorded: not even what nobody foresaw may become an error of its request.
                if self._is_taken(publish):
                    return True
            finally:
                self._under_way.release()
        return self._leave(publish)

    def _leave(self, publish: Publish) -> bool:
        if len(self._left) >= BACKLOG:
            return False
        self._left.append(publish)
        self._loop.start()
        self._loop.wake()
        return True

    def _publish_left(self) -> None:
        while self._left:
            with self._under_way:
                # Out of the queue first: what raises anything unforeseen does not come back. The reconciler finds it.
                publish = self._left.popleft()
                is_taken = _bounded(publish) is not False
                if not is_taken:
                    self._left.appendleft(publish)
            if not is_taken:
                self._loop.rest(RETRY_S)

    def _is_taken(self, publish: Publish) -> bool:
        answers: list[bool | None] = []
        failure_of(lambda: answers.append(_bounded(publish)), "publishing")
        return bool(answers) and answers[0] is not False


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
