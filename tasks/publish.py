"""Publishing turns: "one more job waits". By name, with ids only, and never for long."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from typing import Any

from celery import Celery

from core.broker_errors import broker_errors
from core.job import Job, prompt_id_of
from tasks.names import GENERATE, GPU_QUEUE, IO_QUEUE, NOTIFY, UPLOAD, io_queue_of

log = logging.getLogger(__name__)

#: After a failure nothing is tried for this long, so that a dead broker costs one request its timeout, not each.
BREAK_S = 2.0
#: Messages that may wait for a broker that is slow.
BACKLOG = 1_000


class Publisher:
    """Publishes for one process. Nothing it does can fail its caller: the reconciler mends what did not get through."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._errors = broker_errors(app.conf.broker_url)
        self._closed_until_s = 0.0
        # What a chain is on the wire, made once: a worker that ends a task pops the last step and publishes it. The
        # upload has no queue: the router of the worker that made the files picks the host that holds them.
        self._upload_step = dict(app.signature(UPLOAD))
        self._notify_step = dict(app.signature(NOTIFY, queue=IO_QUEUE))

    def turn(self, job_id: str) -> bool:
        """Publish a job's turn, the chain generate, upload, notify; False when the broker did not take it."""
        return self._publish(
            GENERATE, (job_id,), queue=GPU_QUEUE, task_id=job_id, chain=[self._notify_step, self._upload_step]
        )

    def delivery(self, job_id: str, attempt: int, host: str) -> bool:
        """Publish the rest of a job's chain, from storing its files on, to the host that holds them."""
        return self._publish(UPLOAD, ([job_id, attempt],), queue=io_queue_of(host), chain=[self._notify_step])

    def notify(self, job_id: str) -> bool:
        """Publish the sending of a job's webhooks."""
        return self._publish(NOTIFY, (job_id,), queue=IO_QUEUE)

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

    def _publish(self, task: str, args: tuple[Any, ...], **options: Any) -> bool:
        if time.monotonic() < self._closed_until_s:
            return False
        try:
            self._app.send_task(task, args, **options)
        except self._errors as exc:
            self._closed_until_s = time.monotonic() + BREAK_S
            log.warning("broker did not take %s%s; it will be published later (%s)", task, args, exc)
            return False
        return True


class BackgroundNotifier:
    """Publishes the sending of webhooks for those who cannot wait for a broker, from a thread of its own."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._queue: queue.Queue[str] = queue.Queue(BACKLOG)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def notify(self, job_id: str) -> None:
        """Publish soon. What finds too much waiting is left to the reconciler."""
        with self._lock:
            # Not in the constructor: a thread does not survive a fork.
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
                self._thread.start()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(job_id)

    def _run(self) -> None:
        while True:
            self._publisher.notify(self._queue.get())
