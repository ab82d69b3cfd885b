"""What is published when a job moves."""

from __future__ import annotations

import logging

from core.job import QUEUED
from tasks.runtime import Runtime

log = logging.getLogger(__name__)


def take_back(runtime: Runtime) -> None:
    """Jobs whose worker was lost go to another one, or end."""
    for job_id, status in runtime.ledger.requeue.take_back_lapsed().items():
        log.warning("job %s was taken back from a lost worker: %s", job_id, status)
        go_on(runtime, job_id, status)


def go_on(runtime: Runtime, job_id: str, status: str) -> None:
    """Publish what follows for a job that came back from a GPU without a result."""
    if status == QUEUED:
        runtime.publisher.turn(job_id)
    else:
        runtime.publisher.notify(job_id)
