"""The task that stores a job's files and delivers them; runs on the host that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

from celery import shared_task
from celery.exceptions import Ignore

from core.errors import DeliveryFailed, FleetError, NotFound, OutputUnavailable, StaleAttempt, StorageUnavailable
from core.job import SUCCEEDED, Job
from core.ledger.database import now_ms
from core.ledger.delivery import Pending, StoredFile
from core.storage import make_folder, remove_job
from tasks.buckets import Item, upload_files
from tasks.convert import Conversion
from tasks.finish import discard_originals, store_finished
from tasks.names import UPLOAD
from tasks.recorder import job_error
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
    except (DeliveryFailed, StorageUnavailable) as exc:
        log.warning("job %s waits for another turn: %s", job_id, exc)
        raise Ignore from exc
    if job.webhook is None:
        # Nobody to tell: the chain ends here, and a message and a task are saved.
        self.request.chain = None
    return job_id


def _deliver(runtime: Runtime, job_id: str, attempt: int) -> Job:
    # Else files would go where nobody finds them, and this would count as done.
    runtime.storage.require()
    pending = runtime.ledger.deliveries.pending(job_id, attempt)
    missing: dict[str, str] = {}
    if not pending.delivery:
        stored = _store(runtime, job_id, attempt, pending, missing)
        return runtime.ledger.deliveries.succeed(job_id, attempt, stored, missing)
    with _alone(runtime.settings.outputs_dir / job_id, runtime.settings.outputs_dir):
        stored = _store(runtime, job_id, attempt, pending, missing)
        if pending.delivery.get("s3"):
            stored = _upload(runtime, job_id, pending, stored)
        job = runtime.ledger.deliveries.succeed(job_id, attempt, stored, missing)
        discard_originals(runtime.settings.outputs_dir, job_id)
        return job


def _store(runtime: Runtime, job_id: str, attempt: int, pending: Pending, missing: dict[str, str]) -> list[StoredFile]:
    """Store what is there. A file that is not there is told as missing; a job that has nothing else fails."""
    root, deliveries = runtime.settings.outputs_dir, runtime.ledger.deliveries
    try:
        wanted = Conversion.from_delivery(pending.delivery)
        if wanted is None:
            stored = store(root, pending.files, missing)
        else:
            stored = store_finished(root, pending.files, wanted, missing)
        if missing and not stored:
            raise OutputUnavailable(next(iter(missing.values())))
        return stored
    except OutputUnavailable as exc:
        node_id = next((file.node_id for file in pending.files if file.asset_id in missing), None)
        deliveries.fail(job_id, attempt, job_error(exc) | {"node_id": node_id})
        runtime.publisher.notify(job_id)
        raise
    except (OSError, FleetError) as exc:
        if now_ms() - pending.generated_at_ms > GIVE_UP_MS:
            deliveries.fail(job_id, attempt, {"code": "delivery_failed", "message": f"Outputs not stored: {exc}"})
            runtime.publisher.notify(job_id)
        # Otherwise the reconciler gives it another turn, here and wherever something else is raised.
        raise


def _upload(runtime: Runtime, job_id: str, pending: Pending, stored: list[StoredFile]) -> list[StoredFile]:
    by_id = {file.asset_id: file for file in stored}
    items = [
        Item(
            file=by_id[produced.asset_id],
            node_id=produced.node_id,
            ordinal=ordinal,
            content_type=by_id[produced.asset_id].content_type or produced.content_type or "application/octet-stream",
        )
        for ordinal, produced in enumerate(pending.files, start=1)
        if produced.asset_id in by_id
    ]
    give_up_at_ms = pending.generated_at_ms + round(runtime.settings.upload_give_up_s * 1000)
    return upload_files(runtime, runtime.ledger.jobs.get(job_id), items, give_up_at_ms=give_up_at_ms)


@contextlib.contextmanager
def _alone(folder: Path, root: Path) -> Iterator[None]:
    """A turn that finds another one at work on the same job ends at once: an upload may take longer than turns wait."""
    make_folder(folder, root)
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
