"""Publishing turns: "one more job waits". By name, with ids only, and never for long."""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import Celery, Signature, chain
from kombu.exceptions import KombuError, OperationalError

from core.job import Job, prompt_id_of
from tasks.names import GENERATE, GPU_QUEUE, IO_QUEUE, NOTIFY, UPLOAD, io_queue_of

log = logging.getLogger(__name__)

#: After a failure nothing is tried for this long, so that a dead broker costs one request its timeout, not each.
BREAK_S = 2.0
#: What kombu and the transports raise when a broker is away, full, or slow.
BROKER_ERRORS = (KombuError, OperationalError, OSError, TimeoutError)


class Publisher:
    """Publishes for one process. Nothing it does can fail its caller: the reconciler mends what did not get through."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._errors: tuple[type[BaseException], ...] = (
            *BROKER_ERRORS,
            *app.connection_for_write().recoverable_connection_errors,
        )
        self._closed_until_s = 0.0

    def turn(self, job_id: str) -> bool:
        """Publish a job's turn, the chain generate, upload, notify; False when the broker did not take it."""
        steps = chain(
            self._app.signature(GENERATE, args=(job_id,), immutable=True, queue=GPU_QUEUE, task_id=job_id),
            # No queue here: the router picks the host that holds the files when the chain gets there.
            self._app.signature(UPLOAD),
            self._app.signature(NOTIFY, queue=IO_QUEUE),
        )
        return self._publish(steps, job_id)

    def delivery(self, job_id: str, attempt: int, host: str) -> bool:
        """Publish the rest of a job's chain, from storing its files on, to the host that holds them."""
        steps = chain(
            self._app.signature(UPLOAD, args=([job_id, attempt],), queue=io_queue_of(host)),
            self._app.signature(NOTIFY, queue=IO_QUEUE),
        )
        return self._publish(steps, job_id)

    def notify(self, job_id: str) -> bool:
        """Publish the sending of a job's webhooks."""
        return self._publish(self._app.signature(NOTIFY, args=(job_id,), queue=IO_QUEUE), job_id)

    def cancel(self, job: Job) -> None:
        """Tell the worker that runs a job to interrupt it now. Lost, it costs the time to the next lease renewal."""
        if job.instance is None or time.monotonic() < self._closed_until_s:
            return
        arguments = {"instance": job.instance, "prompt_id": prompt_id_of(job.id, job.attempt)}
        try:
            self._app.control.broadcast("fleet_interrupt", arguments=arguments)
        except self._errors as exc:
            self._closed_until_s = time.monotonic() + BREAK_S
            log.warning("broker did not take the interrupt of job %s (%s)", job.id, exc)

    def _publish(self, steps: Signature[Any], job_id: str) -> bool:
        if time.monotonic() < self._closed_until_s:
            return False
        try:
            steps.apply_async()
        except self._errors as exc:
            self._closed_until_s = time.monotonic() + BREAK_S
            log.warning("broker did not take a message of job %s; it will be published later (%s)", job_id, exc)
            return False
        return True
