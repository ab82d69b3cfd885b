"""The task that stores a job's files; runs on the host that holds them."""

from __future__ import annotations

from celery import shared_task
from celery.exceptions import Ignore

from core.errors import FleetError, OutputUnavailable, StaleAttempt
from core.job import SUCCEEDED, Job
from core.ledger.database import now_ms
from tasks.names import UPLOAD
from tasks.recorder import job_error
from tasks.runtime import FleetTask, Runtime
from tasks.storage import remove_job, store

#: Files that could not be stored for this long will not be.
GIVE_UP_MS = 3600 * 1000


@shared_task(bind=True, base=FleetTask, name=UPLOAD)
def upload(self: FleetTask, generated: list[str | int]) -> str:
    """Store the files of `[job_id, attempt]` and end the job; returns its id."""
    job_id, attempt = str(generated[0]), int(generated[1])
    try:
        job = _deliver(self.runtime, job_id, attempt)
    except StaleAttempt as exc:
        raise Ignore from exc
    if job.webhook is None:
        # Nobody to tell: the chain ends here, and a message and a task are saved.
        self.request.chain = None
    return job_id


def _deliver(runtime: Runtime, job_id: str, attempt: int) -> Job:
    deliveries = runtime.ledger.deliveries
    try:
        stored = store(runtime.settings.outputs_dir, deliveries.files_of(job_id, attempt))
    except OutputUnavailable as exc:
        deliveries.fail(job_id, attempt, job_error(exc))
        runtime.publisher.notify(job_id)
        raise
    except (OSError, FleetError) as exc:
        job = runtime.ledger.jobs.get(job_id)
        if job.generated_at_ms is not None and now_ms() - job.generated_at_ms > GIVE_UP_MS:
            deliveries.fail(job_id, attempt, {"code": "delivery_failed", "message": f"Outputs not stored: {exc}"})
            runtime.publisher.notify(job_id)
        # Otherwise the reconciler gives it another turn.
        raise
    try:
        return deliveries.succeed(job_id, attempt, stored)
    except StaleAttempt:
        if runtime.ledger.jobs.get(job_id).status != SUCCEEDED:
            remove_job(runtime.settings.outputs_dir, job_id)
        raise
