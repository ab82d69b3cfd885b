"""The task that stores a job's files, and puts them into a bucket; runs on the host that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from celery import shared_task

from core import log_fields
from core.errors import ComfylineError, LedgerUnavailable, NotFound, OutputUnavailable, StaleAttempt, StorageUnavailable
from core.job_files import job_folder, job_path
from core.ledger.outputs import Pending
from core.metrics.counted import STORAGE_ERRORS
from core.metrics.tally import process_tally
from core.records.job import SUCCEEDED, Job
from core.records.output import OutputFile
from core.records.output_options import AS_THEY_ARE
from core.storage.backend import StorageBackend, output_storage
from core.storage.folders import make_folder
from core.storage.placing import LocalFile
from core.trace_context import trace_id_of
from core.tracing import spans
from tasks.messaging.follow_up import Moved, follow_up, publish_follow_up
from tasks.messaging.names import UPLOAD
from tasks.outputs.bucket_upload import upload_files
from tasks.outputs.convert import Conversion
from tasks.outputs.finishing import discard_originals, store_finished
from tasks.outputs.slow_turns import SlowTurns
from tasks.outputs.store import store
from tasks.outputs.upload_tries import AWAY, Unfinished, UploadTries
from tasks.outputs.workplace import is_younger
from tasks.runtime import ComfylineTask, Runtime

log = logging.getLogger(__name__)


@shared_task(bind=True, base=ComfylineTask, name=UPLOAD)
def upload(self: ComfylineTask, generated: list[str | int]) -> str:
    """Store the files of `[job_id, attempt, ...]`, upload them if that is wanted, and end the job; returns its id."""
    job_id, attempt = str(generated[0]), int(generated[1])
    log_fields.begin(job_id=job_id, attempt=attempt)
    try:
        job = _bring_in(self.runtime, job_id, attempt, self.context.get(SlowTurns))
    except StaleAttempt:
        _tidy(self.runtime, job_id)
        return self.end_chain(f"job {job_id}: nothing to do")
    except Unfinished as exc:
        self.report(f"job {job_id} attempt {attempt}: {exc}")
        return self.end_chain(f"job {job_id}: {exc}")
    except (LedgerUnavailable, StorageUnavailable) as exc:
        if isinstance(exc, StorageUnavailable):
            process_tally.add(STORAGE_ERRORS, "store")
        log.warning("job %s waits for another turn: %s", job_id, exc)
        return self.end_chain(f"job {job_id}: {exc}")
    self.report(f"job {job_id} attempt {attempt}")
    if follow_up(job.status, has_webhook=bool(job.webhook)) is None:
        # Nobody to tell: the chain ends here, and a message and a task are saved.
        self.end_chain(job_id)
    return job_id


def _bring_in(runtime: Runtime, job_id: str, attempt: int, slow: SlowTurns | None) -> Job:
    tries = UploadTries(runtime, job_id, attempt)
    # Else files would go where nobody finds them, and this would count as done.
    if runtime.storage.problem() is not None:
        tries.tell(AWAY)
    runtime.storage.require()
    missing: dict[str, str] = {}
    try:
        pending = runtime.ledger.outputs.pending(job_id, attempt)
        log_fields.note(tenant=pending.tenant, trace_id=trace_id_of(pending.traceparent))
        tries.generated_at_ms = pending.generated_at_ms
        storage = output_storage(runtime.settings)
        told: dict[str, Any] = {"job_id": job_id, "attempt": attempt, "tenant": pending.tenant}
        is_told = contextlib.nullcontext() if slow is None else slow.watched(lambda: tries.tell(AWAY))
        alone = _alone(storage.workplace, job_id, pending)
        with alone, is_told, spans.span("store", pending.traceparent, **told):
            tries.begin()
            stored = _store(runtime, pending, missing)
            if missing and not stored:
                if storage.is_remote and is_younger(storage.workplace, pending.generated_at_ms):
                    _lose_files(runtime, job_id, attempt)
                tries.node_id = next(file.node_id for file in pending.files if file.id in missing)
                raise OutputUnavailable(next(iter(missing.values())))
            if pending.output_options.bucket is not None:
                asked = runtime.ledger.jobs.get(job_id)
                stored = upload_files(runtime, asked, stored, give_up_at_ms=tries.give_up_at_ms)
            kept = _keep(storage, stored, attempt)
            job = runtime.ledger.outputs.succeed(job_id, attempt, kept, missing)
            if pending.output_options != AS_THEY_ARE:
                discard_originals(storage.workplace, job_id)
            storage.clear_workplace(job_id)
            return job
    except StaleAttempt:
        raise
    except (OSError, ComfylineError) as exc:
        tries.put_off(exc)
    except Unfinished:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever it is, the job must come to an end
        tries.lose(exc)


def _lose_files(runtime: Runtime, job_id: str, attempt: int) -> NoReturn:
    """Have a job run again whose files went with a disk. Raises Unfinished, StaleAttempt."""
    status = runtime.ledger.requeue.lose_files(job_id, attempt)
    if status is None:
        raise StaleAttempt(f"Job {job_id} attempt {attempt} has nothing left to store.")
    log.warning("job %s: its files went with this machine's disk: %s", job_id, status)
    publish_follow_up(runtime.publisher, Moved(job_id=job_id, status=status))
    raise Unfinished("its files went with this machine's disk")


def _store(runtime: Runtime, pending: Pending, missing: dict[str, str]) -> list[OutputFile]:
    """Make ready what is there; what is not there is told as missing."""
    root = output_storage(runtime.settings).workplace
    wanted = Conversion.from_options(pending.output_options)
    if wanted is None:
        return store(root, pending.files, missing)
    return store_finished(root, pending.files, wanted, missing)


def _keep(storage: StorageBackend, files: list[OutputFile], attempt: int) -> list[OutputFile]:
    """Bring files that are ready into storage; returns them with their keys. Raises OSError."""
    local, kept = [], []
    for file in files:
        path = file.path_below(storage.workplace)
        if storage.is_remote and attempt > 1:
            # The machine of an attempt before may only have been cut off, and may yet write what it made under its key.
            file = replace(file, storage_key=job_path(file.job_id, str(attempt), file.stored_name))
        key, digest = file.storage_key or "", file.hash or ""
        local.append(LocalFile(key=key, path=path, digest=digest, content_type=file.content_type))
        kept.append(file)
    storage.keep(local)
    return kept


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
    storage = output_storage(runtime.settings)
    if job.status == SUCCEEDED:
        discard_originals(storage.workplace, job_id)
        storage.clear_workplace(job_id)
    elif job.is_terminal:
        # What is left then is found when nobody refers to it.
        with contextlib.suppress(OSError):
            storage.remove_folder(job_id)
