"""Publishing turns: "one more job waits". By name, with ids only, and never for long."""

from __future__ import annotations

import functools
import logging
import queue
import time
from collections.abc import Callable
from typing import Any, Protocol

from celery import Celery

from core.background import Loop, failure_of
from core.errors import BrokerUnavailable, LedgerUnavailable
from core.ledger.claims import Claim
from core.ledger.scheduling.turns import Turn
from core.messaging.broker_errors import broker_errors
from core.metrics.counted import BROKER_PUBLISHES
from core.metrics.tally import process_tally
from core.records.job import prompt_id_of
from tasks.messaging.names import (
    CHECK_UPLOAD,
    GENERATE,
    GPU_QUEUE,
    IO_QUEUE,
    NOTIFY,
    UPLOAD,
    gpu_queue_of,
    io_queue_of,
)

log = logging.getLogger(__name__)

#: After a failure nothing is tried for this long, so that a dead broker costs one request its timeout, not each.
BREAK_S = 2.0
#: One process looks for idle instances to be woken this often at most.
WAKE_S = 0.5
#: Messages that may wait for a broker that is slow.
BACKLOG = 1_000


class TurnOf(Protocol):
    """Says which instance a job's turn is for, see `core.ledger.scheduling.turns.Turns.of`."""

    def __call__(self, job_id: str, *, recorded_s: float | None = None) -> Turn | None:
        """Return the turn of a job."""


class Publisher:
    """Publishes for one process. Nothing it does can fail its caller: the reconciler mends what did not get through."""

    def __init__(
        self,
        app: Celery,
        turn_of: TurnOf | None = None,
        woken: Callable[[], list[Turn]] | None = None,
        through_gates: Callable[[], list[Turn]] | None = None,
    ) -> None:
        """Parameters:
        turn_of: says which instance a job's turn is for; without it, turns are for whichever worker takes them.
        woken: says which turns are for instances that rather stayed idle until now.
        through_gates: says which turns are of jobs that go through gates.
        """
        self._woken = woken
        self._through_gates = through_gates
        self._app = app
        self._turn_of = turn_of
        self._errors = broker_errors(app.conf.broker_url)
        self._closed_until_s = 0.0
        # What a chain is on the wire, made once: a worker that ends a task pops the last step and publishes it. The
        # upload has no queue: the router of the worker that made the files picks the host that holds them.
        self._upload_step = dict(app.signature(UPLOAD))
        self._notify_step = dict(app.signature(NOTIFY, queue=IO_QUEUE))

    def turn(self, job_id: str, *, recorded_s: float | None = None) -> bool:
        """Publish a job's turn for the idle instance that would take it; False when the broker did not take it.

        Nothing is published if no idle instance would: one that is at work looks for itself before it ends.

        Parameters:
          recorded_s: when the job stood in the ledger already, by `time.monotonic`.
        """
        if self._turn_of is None:
            return self._publish_turn(job_id, GPU_QUEUE)
        try:
            turn = self._turn_of(job_id, recorded_s=recorded_s)
        except LedgerUnavailable as exc:
            log.info("the turn of job %s is left to the reconciler: %s", job_id, exc)
            return True
        return turn is None or self.turn_for(turn)

    def turn_for(self, turn: Turn) -> bool:
        """Publish a turn for its instance; False when the broker did not take it."""
        return self._publish_turn(turn.job_id, gpu_queue_of(turn.instance) if turn.has_queue else GPU_QUEUE)

    def wake(self) -> None:
        """Publish turns for instances that stayed idle rather than load models, and would not any more."""
        self._turns_of(self._woken)

    def pass_gates(self) -> bool:
        """Publish turns for idle instances that would take jobs which go through gates; call it when one has opened.

        Returns: False when the broker did not take them all; the reconciler publishes them.
        """
        return self._turns_of(self._through_gates)

    def _turns_of(self, look: Callable[[], list[Turn]] | None) -> bool:
        if look is None:
            return True
        try:
            turns = look()
        except LedgerUnavailable as exc:
            log.info("idle instances are left to the reconciler: %s", exc)
            return True
        return all(map(self.turn_for, turns))

    def own_turn(self, job_id: str, instance: str) -> bool:
        """Publish the turn of a job that an instance has claimed already; False when the broker did not take it."""
        return self._publish_turn(job_id, gpu_queue_of(instance))

    def _publish_turn(self, job_id: str, queue: str) -> bool:
        """Publish the chain generate, upload, notify."""
        return self._publish(
            GENERATE, (job_id,), queue=queue, task_id=job_id, chain=[self._notify_step, self._upload_step]
        )

    def store(self, job_id: str, attempt: int, host: str) -> bool:
        """Publish the rest of a job's chain, from storing its files on, to the host that holds them."""
        return self._publish(UPLOAD, ([job_id, attempt],), queue=io_queue_of(host), chain=[self._notify_step])

    def notify(self, job_id: str) -> bool:
        """Publish the sending of a job's webhooks."""
        return self._publish(NOTIFY, (job_id,), queue=IO_QUEUE)

    def check_upload(self, upload_id: str) -> bool:
        """Publish the look at what a client has put into the bucket."""
        return self._publish(CHECK_UPLOAD, (upload_id,), queue=IO_QUEUE)

    def interrupt(self, job_id: str, attempt: int, instance: str) -> None:
        """Tell the worker that runs a job to interrupt it now. Lost, it costs the time to the next lease renewal."""
        arguments = {"instance": instance, "prompt_id": prompt_id_of(job_id, attempt)}
        broadcast = functools.partial(self._app.control.broadcast, "fleet_interrupt", arguments=arguments)
        self._send(broadcast, f"the interrupt of job {job_id}")

    def look_again(self) -> bool:
        """Tell every GPU worker to look for new files now; False when the broker did not take it."""
        return self._send(lambda: self._app.control.broadcast("fleet_look_again"), "the wish for another look")

    def _publish(self, task: str, args: tuple[Any, ...], **options: Any) -> bool:
        return self._send(functools.partial(self._app.send_task, task, args, **options), f"{task}{args}")

    def _send(self, send: Callable[[], object], what: str) -> bool:
        if time.monotonic() < self._closed_until_s:
            return False
        # kombu has more ways to fail than its transports list: a connection that was closed under it shows as an
        # AttributeError of its own.
        begun_s = time.monotonic()
        is_sent = failure_of(lambda: self._foreseen(send, what), "publishing") is None
        process_tally.observe(BROKER_PUBLISHES, time.monotonic() - begun_s, "taken" if is_sent else "failed")
        if is_sent:
            return True
        self._closed_until_s = time.monotonic() + BREAK_S
        return False

    def _foreseen(self, send: Callable[[], object], what: str) -> None:
        try:
            send()
        except self._errors as exc:
            raise BrokerUnavailable(f"The broker did not take {what}; it will be published later ({exc}).") from exc


class BackgroundSender:
    """Publishes for those who cannot wait for a broker, from a thread of its own."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._queue: queue.Queue[Callable[[], object]] = queue.Queue(BACKLOG)
        self._loop = Loop("sender", self._publish_next)
        self._woken_at_s = float("-inf")
        #: A look at what goes through gates is due.
        self._looks_at_gates = False

    def notify(self, job_id: str) -> None:
        """Publish the sending of a job's webhooks soon. What finds too much waiting is left to the reconciler."""
        self._put(lambda: self._publisher.notify(job_id))

    def own_turn(self, job_id: str, instance: str) -> None:
        """Publish the turn of a job that an instance has claimed already. Without it the job runs all the same."""
        self._put(lambda: self._publisher.own_turn(job_id, instance))

    def wake(self) -> None:
        """Wake idle instances soon, see `Publisher.wake`; at most so often."""
        now_s = time.monotonic()
        if now_s - self._woken_at_s >= WAKE_S:
            self._woken_at_s = now_s
            self._put(self._publisher.wake)

    def ended(self, claim: Claim) -> None:
        """Wake idle instances soon for jobs that wait behind a gate which the job of a claim went through.

        Many that end at once are followed by one look.
        """
        if claim.is_gated and not self._looks_at_gates:
            self._looks_at_gates = True
            if not self._put(self._look_at_gates):
                self._looks_at_gates = False

    def _look_at_gates(self) -> None:
        # First: whoever opens a gate from here on wants another look.
        self._looks_at_gates = False
        self._publisher.pass_gates()

    def _put(self, publish: Callable[[], object]) -> bool:
        self._loop.start()
        try:
            self._queue.put_nowait(publish)
        except queue.Full:
            return False
        return True

    def _publish_next(self) -> None:
        self._queue.get()()
