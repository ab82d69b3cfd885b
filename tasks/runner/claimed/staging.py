"""A job's files: its inputs are brought to the instance that is about to run it, and its models noted as used."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, wait
from contextlib import ExitStack
from pathlib import Path

from comfy.client.client import ComfyClient
from comfy.client.inputs import stage
from core.errors import ComfylineError, ComfyUnavailable, InputGone, PromptRejected, StorageUnavailable
from core.job_files import job_folder
from core.ledger.claims import Claim
from core.records.instance import InstanceRecord
from core.settings import Settings
from core.storage.backend import StorageBackend, input_storage
from core.storage.folders import BucketFault, is_out_of_room
from core.storage.input_cache import input_cache
from core.storage.placing import Told
from tasks.models.uses import note_uses

log = logging.getLogger(__name__)

#: What hears of a file, by its key; None: nobody.
ToldOf = Callable[[str], Told | None]


def stage_inputs(
    claim: Claim,
    instance: InstanceRecord,
    client: ComfyClient,
    settings: Settings,
    threads: Executor | None = None,
    told_of: ToldOf = lambda _key: None,
) -> None:
    """Put every input file of a claimed job where its graph names it; doing it again does no harm.

    Its model files, which lie there already, count as used from now on.

    Parameters:
      threads: fetch the files of a job that has several; None: one after the other.
      told_of: gives what hears how far the file of a key is, where that takes a network.
    Raises:
      InputGone: storage has it no more.
      PromptRejected: an attached instance refuses it.
      StorageUnavailable: storage is a bucket that does not answer, or refuses.
      ComfyUnavailable: an attached instance does not answer, or the disk of another has no room.
    """
    note_uses(settings, claim.models)
    if not claim.inputs:
        return
    storage = input_storage(settings)
    try:
        if instance.kind == "attached":
            with ExitStack() as stack:
                stage(client, _local(stack, claim, storage, settings, threads, told_of))
        else:
            folder = settings.gpu_dir(instance.gpu_name) / "input"
            _bring([(file.key, folder / file.name) for file in claim.inputs], storage, settings, threads, told_of)
    except FileNotFoundError as exc:
        raise InputGone("An input file of this job is no longer in storage.") from exc
    except BucketFault as exc:
        log.warning("job %s: its input files cannot be fetched: %s", claim.job_id, exc.strerror)
        raise StorageUnavailable("The storage of the job's input files does not answer as it should.") from exc
    except OSError as exc:
        if not is_out_of_room(exc):
            raise
        # Another machine may have some; this one is soon `disk_full`.
        raise ComfyUnavailable(f"The disk of {instance.name} has no room for the job's input files.") from exc


def _local(
    stack: ExitStack,
    claim: Claim,
    storage: StorageBackend,
    settings: Settings,
    threads: Executor | None,
    told_of: ToldOf,
) -> dict[str, Path]:
    """Return where the files of a job can be read, for as long as the stack is open, by their names."""
    if not storage.is_remote:
        return {file.name: stack.enter_context(storage.local(file.key)) for file in claim.inputs}
    drafts = {file.name: storage.draft() for file in claim.inputs}
    for draft in drafts.values():
        stack.callback(draft.unlink, missing_ok=True)
    _bring([(file.key, drafts[file.name]) for file in claim.inputs], storage, settings, threads, told_of)
    return drafts


def _bring(
    wanted: Sequence[tuple[str, Path]],
    storage: StorageBackend,
    settings: Settings,
    threads: Executor | None,
    told_of: ToldOf,
) -> None:
    """Copy files out of storage, by their keys; those of a bucket by way of the host's cache."""
    cache = input_cache(settings) if storage.is_remote else None

    def bring(key: str, target: Path) -> None:
        if cache is None:
            storage.copy(key, target)
        else:
            told = told_of(key)
            was_here = not cache.bring(key, target, lambda key, target: storage.copy(key, target, told))
            if was_here and told is not None:
                told(0, 0)

    if threads is None or len(wanted) == 1:
        for key, target in wanted:
            bring(key, target)
        return
    brought = [threads.submit(bring, key, target) for key, target in wanted]
    # All of them, for what comes late would lie there for nobody.
    wait(brought)
    for each in brought:
        each.result()


def remove_staged(claim: Claim, instance: InstanceRecord, client: ComfyClient, settings: Settings) -> None:
    """Remove an attempt's input files from the instance, now that it has ended.

    ComfyUI has no way to delete a file over HTTP. On an attached instance each is written over with nothing: its name
    stays, what it held does not. What cannot be reached is passed over.
    """
    folder = settings.gpu_dir(instance.gpu_name) / "input"
    for file in claim.inputs:
        if instance.kind == "attached":
            try:
                stage(client, {file.name: b""})
            except PromptRejected as exc:
                # A size that a proxy does not take, for one. The other files may go.
                log.info("job %s: an input file stays on %s: %s", claim.job_id, instance.name, exc)
            except ComfylineError as exc:
                log.info("job %s: input files stay on %s: %s", claim.job_id, instance.name, exc)
                return
        else:
            (folder / file.name).unlink(missing_ok=True)
    if instance.kind != "attached":
        shutil.rmtree(job_folder(folder, claim.job_id), ignore_errors=True)
