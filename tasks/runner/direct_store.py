"""The short road: small outputs that nothing is to be done with go into storage right where they were made.

The io worker's part of such a job takes longer than the job: a message, a task, three looks at the ledger. So the GPU
worker stores them itself, when that is sure to be quick, and ends the job in the transaction that says what it made.
Everything else, and whatever is odd, is left to the io worker, as if nobody had tried.

A file gets its place besides the one it has, and only where nothing is: it is at its source until the job has ended. So
a worker that is killed here leaves its job to another attempt, and one that wakes up late writes over nothing.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from pathlib import Path

from core.errors import ComfylineError, LedgerUnavailable, NotFound
from core.job_files import job_folder, job_path
from core.ledger.claims import Claim
from core.records.job import SUCCEEDED
from core.records.output import OutputFile
from core.records.output_options import AS_THEY_ARE
from core.storage.backend import output_storage
from core.storage.folders import make_folder
from core.storage.placing import digest_of, free_name, place_new, real_file
from core.texts.stored_json import whole_text
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: Files of one job, and what they hold together: hashing so much takes some 10 ms.
MOST_FILES, MOST_BYTES = 16, 16 * 1024 * 1024
#: The next prompt may be waiting for the end of this one. A storage that takes longer is one for io workers.
LIMIT_S = 0.5


class DirectStore:
    """One GPU worker's way into storage. Shared by the threads of its runner."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        #: Storage is on the file system that instances write to: should that hang, there is nothing to be stored.
        self._is_near = False
        #: A storage that answers no more keeps its thread for as long as it likes.
        self._late: Future[list[OutputFile] | None] | None = None
        #: Jobs that have not ended, and some of whose files are there.
        self._begun: set[str] = set()

    def store(self, claim: Claim, files: Sequence[OutputFile]) -> list[OutputFile] | None:
        """Bring a job's files into storage, where they are besides their source; None: the io worker has to."""
        if claim.output_options != AS_THEY_ARE or not _are_simple(files):
            return None
        if not files:
            return []
        try:
            return self._in_time(claim, lambda: self._stored(claim, files))
        except (OSError, ComfylineError) as exc:
            log.info("job %s: its files are left to the io worker (%s)", claim.job_id, type(exc).__name__)
        return None

    def place_early(self, claim: Claim, files: Sequence[OutputFile]) -> list[OutputFile] | None:
        """Give files of a job that still runs their places, besides the ones they have; None: not now.

        Where the job fails, `end_early` removes them. What stores them at its end finds them there.
        """
        if all(file.source.text is not None for file in files):
            return list(files)
        if claim.output_options != AS_THEY_ARE or not _are_simple(files):
            return None
        self._begun.add(claim.job_id)
        try:
            return self._in_time(claim, lambda: self._placed(claim, files))
        except (OSError, ComfylineError) as exc:
            log.debug("job %s: its files are told of at its end (%s)", claim.job_id, type(exc).__name__)
        return None

    def end_early(self, job_id: str, *, is_kept: bool) -> None:
        """Note that a job has ended; where nothing of it is kept, what was placed early is removed."""
        if job_id in self._begun:
            self._begun.discard(job_id)
            if not is_kept:
                self.tidy(job_id)

    @staticmethod
    def leave_sources(files: Sequence[OutputFile]) -> None:
        """Remove the files of a job that has ended from where the instance left them."""
        for file in files:
            if file.source.path is not None:
                path = Path(file.source.path)
                with contextlib.suppress(OSError):
                    path.unlink()
                    # The job's own folder, when this was its last file.
                    path.parent.rmdir()

    def tidy(self, job_id: str) -> None:
        """Remove what was stored of a job that has ended without it. Not if another attempt may be at it."""
        with contextlib.suppress(NotFound, LedgerUnavailable):
            job = self._runtime.ledger.jobs.get(job_id)
            if job.is_terminal and job.status != SUCCEEDED:
                output_storage(self._runtime.settings).remove_folder(job_id)

    def _in_time(self, claim: Claim, step: Callable[[], list[OutputFile] | None]) -> list[OutputFile] | None:
        """Take a step in storage, where that is a directory that answers. Raises what the step does."""
        if output_storage(self._runtime.settings).is_remote:
            return None
        if self._late is not None and not self._late.done():
            return None
        if self._is_near:
            return step()
        answer: Future[list[OutputFile] | None] = Future()
        threading.Thread(target=self._answer, args=(answer, step), name="store", daemon=True).start()
        try:
            return answer.result(LIMIT_S)
        except FutureTimeout:
            self._late = answer
            log.warning("job %s: storage is slow, its files are left to the io worker", claim.job_id)
            return None

    @staticmethod
    def _answer(answer: Future[list[OutputFile] | None], step: Callable[[], list[OutputFile] | None]) -> None:
        try:
            answer.set_result(step())
        except Exception as exc:  # noqa: BLE001 - it is raised where it is waited for
            answer.set_exception(exc)

    def _stored(self, claim: Claim, files: Sequence[OutputFile]) -> list[OutputFile] | None:
        self._runtime.storage.require()
        reals = [_real(file) for file in files]
        sizes = [
            len(file.source.text or "") if real is None else real.stat().st_size
            for file, real in zip(files, reals, strict=True)
        ]
        if sum(sizes) > MOST_BYTES:
            return None
        root = self._ready(claim, reals)
        taken: set[str] = set()
        stored = []
        for file, real in zip(files, reals, strict=True):
            key = job_path(claim.job_id, free_name(file.name, taken))
            target = root / key
            if real is None:
                _write_new(whole_text(file.source.text or ""), target)
            else:
                _place(real, target)
            size_bytes = target.stat().st_size
            stored.append(replace(file, storage_key=key, size_bytes=size_bytes, hash=digest_of(target)))
        return stored

    def _placed(self, claim: Claim, files: Sequence[OutputFile]) -> list[OutputFile] | None:
        self._runtime.storage.require()
        reals = [_real(file) for file in files]
        root = self._ready(claim, reals)
        if not self._is_near:
            # A copy would not be known again at the end.
            return None
        placed = []
        for file, real in zip(files, reals, strict=True):
            key = job_path(claim.job_id, free_name(file.name, set()))
            if real is not None:
                _place(real, root / key)
            placed.append(replace(file, storage_key=key))
        return placed

    def _ready(self, claim: Claim, reals: Sequence[Path | None]) -> Path:
        """Make the job's folder, and learn whether files come to it without being copied; returns the storage."""
        root = self._runtime.settings.outputs_dir
        make_folder(job_folder(root, claim.job_id), root)
        devices = {real.stat().st_dev for real in reals if real is not None}
        self._is_near = devices == {root.stat().st_dev}
        return root


def _place(real: Path, target: Path) -> None:
    """Give a file its place, where it may be already: its node was done before the others."""
    try:
        place_new(real, target)
    except FileExistsError:
        if not target.samefile(real):
            raise


def _are_simple(files: Sequence[OutputFile]) -> bool:
    """Whether they are few texts, and files of this host that nobody else needs."""
    paths = [file.source.path for file in files if file.source.path is not None]
    if len(files) > MOST_FILES or len(set(paths)) < len(paths):
        return False
    return all(
        file.source.text is not None or (file.source.path is not None and file.folder != "input") for file in files
    )


def _real(file: OutputFile) -> Path | None:
    """Return where a file is; None for a text. Raises OutputUnavailable."""
    if file.source.text is not None:
        return None
    assert file.source.root is not None
    assert file.source.path is not None
    source = Path(file.source.path)
    real = real_file(Path(file.source.root), source)
    if source.is_symlink():
        raise OSError("a link, which is not ours to remove")
    return real


def _write_new(text: str, target: Path) -> None:
    draft = target.with_name(f".{target.name}.new.part")
    try:
        draft.write_text(text, encoding="utf-8")
        place_new(draft, target)
    finally:
        draft.unlink(missing_ok=True)
