"""The task that stores a job's files, and puts them into a bucket; runs on the host that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

from celery import shared_task

from core.errors import ComfylineError, LedgerUnavailable, NotFound, OutputUnavailable, StaleAttempt, StorageUnavailable
from core.job_files import job_folder
from core.ledger.outputs import Pending
from core.records.job import SUCCEEDED, Job
from core.records.output import OutputFile
from core.records.output_options import AS_THEY_ARE
from core.storage.backend import output_storage
from core.storage.folders import make_folder
from tasks.messaging.follow_up import follow_up
from tasks.messaging.names import UPLOAD
from tasks.outputs.bucket_upload import upload_files
from tasks.outputs.convert import Conversion
from tasks.outputs.finishing import discard_originals, store_finished
from tasks.outputs.store import store
from tasks.outputs.upload_tries import Unfinished, UploadTries
from tasks.runtime import ComfylineTask, Runtime

log = logging.getLogger(__name__)


@shared_task(bind=True, base=ComfylineTask, name=UPLOAD)
def upload(self: ComfylineTask, generated: list[str | int]) -> str:
    """Store the files of `[job_id, attempt, ...]`, upload them if that is wanted, and end the job; returns its id."""
    job_id, attempt = str(generated[0]), int(generated[1])
    try:
        job = _bring_in(self.runtime, job_id, attempt)
    except StaleAttempt:
        _tidy(self.runtime, job_id)
        return self.end_chain(f"job {job_id}: nothing to do")
    except Unfinished as exc:
        self.report(f"job {job_id} attempt {attempt}: {exc}")
        return self.end_chain(f"job {job_id}: {exc}")
    except (LedgerUnavailable, StorageUnavailable) as exc:
        log.warning("job %s waits for another turn: %s", job_id, exc)
        return self.end_chain(f"job {job_id}: {exc}")
    self.report(f"job {job_id} attempt {attempt}")
    if follow_up(job.status, has_webhook=bool(job.webhook)) is None:
        # Nobody to tell: the chain ends here, and a message and a task are saved.
        self.end_chain(job_id)
    return job_id


def _bring_in(runtime: Runtime, job_id: str, attempt: int) -> Job:
    # Else files would go where nobody finds them, and this would count as done.
    runtime.storage.require()
    tries = UploadTries(runtime, job_id, attempt)
    missing: dict[str, str] = {}
    try:
        pending = runtime.ledger.outputs.pending(job_id, attempt)
        tries.generated_at_ms = pending.generated_at_ms
        with _alone(runtime.settings.outputs_dir, job_id, pending):
            tries.begin()
            stored = _store(runtime, pending, missing)
            if missing and not stored:
                tries.node_id = next(file.node_id for file in pending.files if file.id in missing)
                raise OutputUnavailable(next(iter(missing.values())))
            if pending.output_options.bucket is not None:
                asked = runtime.ledger.jobs.get(job_id)
                stored = upload_files(runtime, asked, stored, give_up_at_ms=tries.give_up_at_ms)
            job = runtime.ledger.outputs.succeed(job_id, attempt, stored, missing)
            if pending.output_options != AS_THEY_ARE:
                discard_originals(runtime.settings.outputs_dir, job_id)
            return job
    except StaleAttempt:
        raise
    except (OSError, ComfylineError) as exc:
        tries.put_off(exc)
    except Unfinished:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever it is, the job must come to an end
        tries.lose(exc)


def _store(runtime: Runtime, pending: Pending, missing: dict[str, str]) -> list[OutputFile]:
    """Store what is there; what is not there is told as missing."""
    root = runtime.settings.outputs_dir
    wanted = Conversion.from_options(pending.output_options)
    if wanted is None:
        return store(root, pending.files, missing)
    return store_finished(root, pending.files, wanted, missing)


@contextlib.contextmanager
def _alone(root: Path, job_id: str, pending: Pending) -> Iterator[None]:
    """A turn that finds another one at work on the same job ends at once: an upload may take longer than turns wait."""
    if not pending.files and pending.output_options == AS_THEY_ARE:
        yield
        return
    folder = job_folder(root, job_id)
    make_folder(folder, root)
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
    except (NotFound, LedgerUnavailable):
        # Retention took the files with it, or will.
        return
    if job.status == SUCCEEDED:
        discard_originals(runtime.settings.outputs_dir, job_id)
    elif job.is_terminal:
        output_storage(runtime.settings).remove_folder(job_id)
