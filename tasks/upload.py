"""The task that stores a job's files and delivers them; runs on the host that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

from celery import shared_task

from core.errors import FleetError, LedgerUnavailable, NotFound, StaleAttempt
from core.job import SUCCEEDED, Job
from core.ledger.delivery import Pending, StoredFile
from core.storage import remove_job
from tasks.buckets import Item, upload_files
from tasks.convert import Conversion
from tasks.finish import discard_originals, store_finished
from tasks.names import UPLOAD
from tasks.runtime import FleetTask, Runtime
from tasks.storage import store
from tasks.upload_tries import Tries, Unfinished

log = logging.getLogger(__name__)


@shared_task(bind=True, base=FleetTask, name=UPLOAD)
def upload(self: FleetTask, generated: list[str | int]) -> str:
    """Store the files of `[job_id, attempt, ...]`, upload them if that is wanted, and end the job; returns its id."""
    job_id, attempt = str(generated[0]), int(generated[1])
    try:
        job = _deliver(self.runtime, job_id, attempt)
    except StaleAttempt:
        _tidy(self.runtime, job_id)
        return self.end_chain(f"job {job_id}: nothing to do")
    except Unfinished as exc:
        return self.end_chain(f"job {job_id}: {exc}")
    except LedgerUnavailable as exc:
        log.warning("job %s waits for another turn: %s", job_id, exc)
        return self.end_chain(f"job {job_id}: {exc}")
    if job.webhook is None:
        # Nobody to tell: the chain ends here, and a message and a task are saved.
        self.end_chain(job_id)
    return job_id


def _deliver(runtime: Runtime, job_id: str, attempt: int) -> Job:
    tries = Tries(runtime, job_id, attempt)
    try:
        pending = runtime.ledger.deliveries.pending(job_id, attempt)
        tries.generated_at_ms = pending.generated_at_ms
        with _alone(runtime.settings.outputs_dir / job_id, pending):
            tries.begin()
            stored = _store(runtime, pending)
            if (pending.delivery or {}).get("s3"):
                stored = _upload(runtime, job_id, pending, stored, tries.give_up_at_ms)
            job = runtime.ledger.deliveries.succeed(job_id, attempt, stored)
            if pending.delivery:
                discard_originals(runtime.settings.outputs_dir, job_id)
            return job
    except StaleAttempt:
        raise
    except (OSError, FleetError) as exc:
        tries.put_off(exc)
    except Unfinished:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever it is, the job must come to an end
        tries.lose(exc)


def _store(runtime: Runtime, pending: Pending) -> list[StoredFile]:
    root = runtime.settings.outputs_dir
    wanted = Conversion.from_delivery(pending.delivery)
    return store(root, pending.files) if wanted is None else store_finished(root, pending.files, wanted)


def _upload(
    runtime: Runtime, job_id: str, pending: Pending, stored: list[StoredFile], give_up_at_ms: int
) -> list[StoredFile]:
    items = [
        Item(
            file=file,
            node_id=produced.node_id,
            ordinal=ordinal,
            content_type=file.content_type or produced.content_type or "application/octet-stream",
        )
        for ordinal, (produced, file) in enumerate(zip(pending.files, stored, strict=True), start=1)
    ]
    return upload_files(runtime, runtime.ledger.jobs.get(job_id), items, give_up_at_ms=give_up_at_ms)


@contextlib.contextmanager
def _alone(folder: Path, pending: Pending) -> Iterator[None]:
    """A turn that finds another one at work on the same job ends at once: an upload may take longer than turns wait."""
    if not pending.files and not pending.delivery:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".delivery.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Unfinished("another turn is at work on it") from exc
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
