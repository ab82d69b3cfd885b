"""The task that stores a job's files and delivers them; runs on the host that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

from celery import shared_task
from celery.exceptions import Ignore

from core.errors import DeliveryFailed, FleetError, NotFound, OutputUnavailable, StaleAttempt
from core.job import SUCCEEDED, Job
from core.ledger.database import now_ms
from core.ledger.delivery import Pending, StoredFile
from core.storage import remove_job
from tasks.buckets import Item, upload_files
from tasks.convert import Conversion
from tasks.finish import discard_originals, store_finished
from tasks.job_errors import job_error
from tasks.names import UPLOAD
from tasks.runtime import FleetTask, Runtime
from tasks.storage import store

log = logging.getLogger(__name__)

#: Files that could not be stored for this long will not be.
GIVE_UP_MS = 3600 * 1000


@shared_task(bind=True, base=FleetTask, name=UPLOAD)
def upload(self: FleetTask, generated: list[str | int]) -> str:
    """Store the files of `[job_id, attempt]`, upload them if that is wanted, and end the job; returns its id."""
    job_id, attempt = str(generated[0]), int(generated[1])
    try:
        job = _deliver(self.runtime, job_id, attempt)
    except StaleAttempt as exc:
        _tidy(self.runtime, job_id)
        raise Ignore from exc
    except DeliveryFailed as exc:
        log.warning("job %s waits for another turn: %s", job_id, exc)
        raise Ignore from exc
    if job.webhook is None:
        # Nobody to tell: the chain ends here, and a message and a task are saved.
        self.request.chain = None
    return job_id


def _deliver(runtime: Runtime, job_id: str, attempt: int) -> Job:
    pending = runtime.ledger.deliveries.pending(job_id, attempt)
    if not pending.delivery:
        return runtime.ledger.deliveries.succeed(job_id, attempt, _store(runtime, job_id, attempt, pending))
    with _alone(runtime.settings.outputs_dir / job_id):
        stored = _store(runtime, job_id, attempt, pending)
        if pending.delivery.get("s3"):
            stored = _upload(runtime, job_id, pending, stored)
        job = runtime.ledger.deliveries.succeed(job_id, attempt, stored)
        discard_originals(runtime.settings.outputs_dir, job_id)
        return job


def _store(runtime: Runtime, job_id: str, attempt: int, pending: Pending) -> list[StoredFile]:
    root, deliveries = runtime.settings.outputs_dir, runtime.ledger.deliveries
    try:
        wanted = Conversion.from_delivery(pending.delivery)
        return store(root, pending.files) if wanted is None else store_finished(root, pending.files, wanted)
    except OutputUnavailable as exc:
        deliveries.fail(job_id, attempt, job_error(exc))
        runtime.publisher.notify(job_id)
        raise
    except (OSError, FleetError) as exc:
        if now_ms() - pending.generated_at_ms > GIVE_UP_MS:
            deliveries.fail(job_id, attempt, {"code": "delivery_failed", "message": f"Outputs not stored: {exc}"})
            runtime.publisher.notify(job_id)
        # Otherwise the reconciler gives it another turn, here and wherever something else is raised.
        raise


def _upload(runtime: Runtime, job_id: str, pending: Pending, stored: list[StoredFile]) -> list[StoredFile]:
    items = [
        Item(
            file=file,
            node_id=produced.node_id,
            ordinal=ordinal,
            content_type=file.content_type or produced.content_type or "application/octet-stream",
        )
        for ordinal, (produced, file) in enumerate(zip(pending.files, stored, strict=True), start=1)
    ]
    give_up_at_ms = pending.generated_at_ms + round(runtime.settings.upload_give_up_s * 1000)
    return upload_files(runtime, runtime.ledger.jobs.get(job_id), items, give_up_at_ms=give_up_at_ms)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A turn that finds another one at work on the same job ends at once: an upload may take longer than turns wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".delivery.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Ignore from exc
        yield


def _tidy(runtime: Runtime, job_id: str) -> None:
    """The job has ended without this turn: nothing stays that nobody will ask for."""
    try:
        job = runtime.ledger.jobs.get(job_id)
    except NotFound:
        # Retention took the files with it.
        return
    if job.status == SUCCEEDED:
        discard_originals(runtime.settings.outputs_dir, job_id)
    elif job.is_terminal:
        remove_job(runtime.settings.outputs_dir, job_id)
