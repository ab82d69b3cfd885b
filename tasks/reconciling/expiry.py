"""Removes what is past its time from storage and ledger, in small steps, and what nothing refers to any more."""

from __future__ import annotations

import functools
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator

from core.background import failure_of
from core.job_files import is_job_id
from core.records.direct_upload import SENDING
from core.storage.backend import direct_uploads, input_storage, output_storage
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: Jobs, files or keys of one step, and with that of one transaction.
BATCH = 100
#: Time for the steps of one kind, in one run.
TIME_LIMIT_S = 1.0
#: Between looks at storage for what nobody refers to. Others are spared the listing, by a mark in storage.
SWEEP_EVERY_S = 600.0
SWEPT = ".swept"
#: Between counts anew of the bytes that tenants keep, likewise.
COUNT_EVERY_S = 3600.0
COUNTED = ".counted"
#: What one sweep looks at, at most: chosen at random, so that it comes to everything.
SWEEP_LIMIT = 5000
#: Folders without a job stay for so long: their job may be on its way into the ledger, or be looked into by somebody.
ORPHAN_S = 24 * 3600.0
#: What clients send straight into the bucket has to be there by then; for as long, too, it is told what became of it.
DIRECT_S = 24 * 3600.0


def remove_expired(runtime: Runtime) -> None:
    """Remove expired jobs, files, uploads and keys, as one run of the reconciler."""
    if runtime.storage.problem() is None:
        for step in (_remove_jobs, _remove_files, _remove_uploads, _remove_direct_uploads):
            # A bucket that lets nobody remove anything must not keep the rest from being done.
            failure_of(functools.partial(_in_steps, step, runtime), f"expiry, {step.__name__}")
        for storage in (input_storage(runtime.settings), output_storage(runtime.settings)):
            failure_of(storage.sweep_drafts, "expiry, drafts")
    _in_steps(_forget_keys, runtime)
    _in_steps(_forget_acts, runtime)
    runtime.ledger.instances.forget_silent()
    runtime.ledger.copies.forget_silent()
    runtime.ledger.lines.forget_unused()
    runtime.ledger.durations.forget()
    runtime.ledger.lessons.forget()


def sweep(runtime: Runtime) -> None:
    """Remove, now and then, files that a process left behind when it died."""
    if runtime.storage.problem() is not None:
        return
    if output_storage(runtime.settings).is_due(COUNTED, every_s=COUNT_EVERY_S):
        failure_of(functools.partial(_recount, runtime), "recount of files")
    if output_storage(runtime.settings).is_due(SWEPT, every_s=SWEEP_EVERY_S):
        removed = sweep_outputs(runtime)
        if removed:
            log.warning("%d folders of jobs that are no longer kept were removed", removed)
    if input_storage(runtime.settings).is_due(SWEPT, every_s=SWEEP_EVERY_S):
        removed = sweep_inputs(runtime)
        if removed:
            log.warning("%d input files that nothing refers to were removed", removed)
        if (uploads := direct_uploads(runtime.settings)) is not None:
            uploads.sweep(runtime.ledger.direct_uploads.checking())


def _recount(runtime: Runtime) -> None:
    for tenant, more in runtime.ledger.room.recount().items():
        log.warning("the bytes that tenant %s keeps were miscounted by %d", tenant, more)


def sweep_outputs(runtime: Runtime) -> int:
    """Remove folders that have no job, and have had none for a day; returns how many."""
    storage = output_storage(runtime.settings)
    removed = 0
    for chunk in _chunks(_some(filter(is_job_id, storage.folders()), SWEEP_LIMIT)):
        known = runtime.ledger.jobs.states(chunk)
        for name in chunk:
            if name not in known and storage.folder_age_s(name) > ORPHAN_S:
                storage.remove_folder(name)
                removed += 1
    return removed


def sweep_inputs(runtime: Runtime) -> int:
    """Remove files that the ledger does not refer to, except those put lately; returns how many."""
    storage = input_storage(runtime.settings)
    found = itertools.islice(storage.keys(), SWEEP_LIMIT)
    return sum(storage.discard(key) for chunk in _chunks(found) for key in runtime.ledger.input_files.unknown(chunk))


def _remove_jobs(runtime: Runtime) -> int:
    job_ids = runtime.ledger.removal.expired_jobs(limit=BATCH)
    storage = output_storage(runtime.settings)
    for job_id in job_ids:
        storage.remove_folder(job_id)
    return runtime.ledger.removal.remove_jobs(job_ids) if job_ids else 0


def _remove_files(runtime: Runtime) -> int:
    job_ids = runtime.ledger.removal.expired_files(limit=BATCH)
    storage = output_storage(runtime.settings)
    for job_id in job_ids:
        storage.remove_folder(job_id)
    if job_ids:
        runtime.ledger.removal.files_removed(job_ids)
    return len(job_ids)


def _remove_uploads(runtime: Runtime) -> int:
    storage = input_storage(runtime.settings)
    keys = runtime.ledger.input_files.remove_expired(limit=BATCH)
    for key in keys:
        storage.discard(key)
    return len(keys)


def _remove_direct_uploads(runtime: Runtime) -> int:
    old = runtime.ledger.direct_uploads.old(age_s=DIRECT_S, limit=BATCH)
    bucket = direct_uploads(runtime.settings)
    for upload in old:
        if bucket is not None and upload.status == SENDING:
            bucket.drop(upload)
        runtime.ledger.direct_uploads.remove(upload.id)
    return len(old)


def _forget_keys(runtime: Runtime) -> int:
    return runtime.ledger.removal.forget_keys(limit=BATCH)


def _forget_acts(runtime: Runtime) -> int:
    return runtime.ledger.audit.forget(older_than_s=runtime.settings.audit_retention_s, limit=BATCH)


def _in_steps(step: Callable[[Runtime], int], runtime: Runtime) -> None:
    """Repeat a step until there is less to do than it may do, or its time is over: the rest waits for the next run."""
    ends_at_s = time.monotonic() + TIME_LIMIT_S
    while True:
        began_s = time.monotonic()
        done = step(runtime)
        took_s = time.monotonic() - began_s
        if done < BATCH or time.monotonic() + 2 * took_s > ends_at_s:
            return
        # SQLite has one write lock: others get it for as long as we had it.
        time.sleep(took_s)


def _some(names: Iterable[str], most: int) -> list[str]:
    """Return so many names at random, each as likely as any other, without having all of them at once."""
    chosen: list[str] = []
    for seen, name in enumerate(names):
        if seen < most:
            chosen.append(name)
        elif (place := int(random.random() * (seen + 1))) < most:  # noqa: S311 - a sample, not a secret
            chosen[place] = name
    return chosen


def _chunks(names: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(names)
    while chunk := list(itertools.islice(remaining, BATCH)):
        yield chunk
