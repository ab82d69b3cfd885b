"""Local storage: files of a job under `<outputs>/<job id>/`, moved there, hashed, never half written."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import requests

from core.errors import ComfyUnavailable, OutputUnavailable
from core.job_files import job_folder, job_path
from core.records.output import OutputFile
from core.storage.folders import copy_in, make_folder, move_in
from core.storage.placing import CHUNK_BYTES, digest_of, free_name, real_file
from core.texts.stored_json import whole_text

#: Connect and read time limits for files of instances that are not on this machine.
FETCH_TIMEOUT_S = (2.0, 30.0)
#: Refusals that are not about the file, and may be over the next time. ComfyUI's own 400, 403 and 404 never are.
PASSING = (401, 407, 408, 425, 429)


def store(root: Path, files: list[OutputFile], missing: dict[str, str] | None = None) -> list[OutputFile]:
    """Bring a job's files into storage. Doing it again after a crash gives the same result.

    Parameters:
      missing: takes `{asset id: why}` of files that no turn will find; they are left out of what is returned.
    Raises:
      OutputUnavailable: the instance reported a file that is not there, and `missing` is None.
      ComfyUnavailable: the instance that holds a file does not answer.
      OSError: the disk is full, or the like.
    """
    taken: set[str] = set()
    brought: dict[str, Path] = {}
    stored = []
    with contextlib.ExitStack() as stack:
        if files:
            stack.enter_context(_alone(job_folder(root, files[0].job_id), root))
        for file in files:
            try:
                stored.append(_store_one(root, file, free_name(file.name, taken), brought))
            except OutputUnavailable as exc:
                if missing is None:
                    raise
                missing[file.id] = exc.message
    return stored


@contextlib.contextmanager
def _alone(folder: Path, root: Path) -> Iterator[None]:
    """Keep a doubled message from a file that its twin has just picked up and not yet put down."""
    make_folder(folder, root)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _store_one(root: Path, file: OutputFile, name: str, brought: dict[str, Path]) -> OutputFile:
    """Bring one file into storage under a name.

    Parameters:
      brought: where files of this job went already, by source: two nodes may report the same one.
    """
    key = job_path(file.job_id, name)
    target = root / key
    make_folder(target.parent, root)
    source = file.source.path or file.source.url
    # A file that lies at its source is this attempt's. One that is in its place already may be that of an attempt
    # before, whose worker was killed on the short road (`tasks.runner.direct_store`).
    if not target.exists() or file.source.text is not None or _lies_at_its_source(file, brought):
        if source in brought:
            copy_in(brought[source], target)
        else:
            try:
                _bring(file, target)
            except OutputUnavailable as exc:
                raise OutputUnavailable(f"Node {file.node_id} reported the file {file.name}: {exc.message}") from exc
    if source is not None:
        brought.setdefault(source, target)
    return replace(file, storage_key=key, size_bytes=target.stat().st_size, hash=digest_of(target))


def _lies_at_its_source(file: OutputFile, brought: dict[str, Path]) -> bool:
    path = file.source.path
    try:
        return path is not None and path not in brought and Path(path).is_file()
    except (OSError, ValueError):
        # Whoever brings it finds out what is wrong with it.
        return False


def _bring(file: OutputFile, target: Path) -> None:
    draft = target.with_name(f".{target.name}.part")
    source = file.source
    if source.text is not None:
        # Half a surrogate, which JSON can hold and UTF-8 cannot, was still written down by earlier versions.
        draft.write_text(whole_text(source.text), encoding="utf-8")
        draft.replace(target)
    elif source.url is not None:
        _download(source.url, draft)
        draft.replace(target)
    else:
        assert source.root is not None
        assert source.path is not None
        _move(Path(source.root), Path(source.path), target)


def _move(root: Path, source: Path, target: Path) -> None:
    """Move a file so that at every moment the whole of it has its old name or its new one, also if it ends here."""
    real = real_file(root, source)
    if root.name == "input":
        # A node that shows an input file has not made it: others may want it yet.
        copy_in(real, target)
        return
    if target.exists() and target.samefile(real) and real.stat().st_nlink > 1:
        # It was given its place while the job ran, and one of two names of a file cannot be moved to the other.
        real.unlink()
    else:
        move_in(real, target)
    with contextlib.suppress(OSError):
        # The job's own folder, when this was its last file.
        source.parent.rmdir()


def _download(url: str, draft: Path) -> None:
    session = requests.Session()
    session.trust_env = False
    try:
        with session, session.get(url, stream=True, timeout=FETCH_TIMEOUT_S) as answer:
            if 400 <= answer.status_code < 500 and answer.status_code not in PASSING:
                raise OutputUnavailable(f"ComfyUI does not hand it out ({answer.status_code}).")
            answer.raise_for_status()
            with draft.open("wb") as file:
                for chunk in answer.iter_content(CHUNK_BYTES):
                    file.write(chunk)
    except requests.RequestException as exc:
        raise ComfyUnavailable("The instance that holds an output does not answer.") from exc
