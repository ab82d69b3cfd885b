"""Local storage: files of a job under `<outputs>/<job id>/`, moved there, hashed, never half written."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import requests
from blake3 import blake3

from core.errors import ComfyUnavailable, OutputUnavailable
from core.ledger.delivery import PendingFile, StoredFile
from core.stored_json import whole_text

CHUNK_BYTES = 1024 * 1024
#: Connect and read time limits for files of instances that are not on this machine.
FETCH_TIMEOUT_S = (2.0, 30.0)


def store(root: Path, files: list[PendingFile]) -> list[StoredFile]:
    """Bring a job's files into storage. Doing it again after a crash gives the same result.

    Raises:
      OutputUnavailable: the instance reported a file that is not there.
      ComfyUnavailable: the instance that holds a file does not answer.
      OSError: the disk is full, or the like.
    """
    taken: set[str] = set()
    with contextlib.ExitStack() as stack:
        if files:
            stack.enter_context(_alone(root / files[0].job_id))
        return [_store_one(root, file, free_name(file.name, taken)) for file in files]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A doubled message must not find a file that its twin has just picked up and not yet put down."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _store_one(root: Path, file: PendingFile, name: str) -> StoredFile:
    key = f"{file.job_id}/{name}"
    target = root / key
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() or "text" in file.source:
        _bring(file, target)
    return StoredFile(asset_id=file.asset_id, storage_key=key, size_bytes=target.stat().st_size, hash=digest_of(target))


def _bring(file: PendingFile, target: Path) -> None:
    draft = target.with_name(f".{target.name}.part")
    if "text" in file.source:
        # Half a surrogate, which JSON can hold and UTF-8 cannot, was still written down by earlier versions.
        draft.write_text(whole_text(file.source["text"]), encoding="utf-8")
        draft.replace(target)
    elif "url" in file.source:
        _download(file.source["url"], draft)
        draft.replace(target)
    else:
        _move(Path(file.source["root"]), Path(file.source["path"]), draft, target)


def _move(root: Path, source: Path, draft: Path, target: Path) -> None:
    """At every moment the whole file has its old name or its new one: who is killed here leaves it to be found."""
    real = source.resolve()
    if not real.is_relative_to(root.resolve()) or not real.is_file():
        raise OutputUnavailable(f"ComfyUI reported {source.name}, but the file is not there.")
    try:
        real.replace(target)
    except OSError:
        # Another file system: copy, and only then remove.
        shutil.copyfile(real, draft)
        draft.replace(target)
        real.unlink()
    with contextlib.suppress(OSError):
        # The job's own folder, when this was its last file.
        source.parent.rmdir()


def _download(url: str, draft: Path) -> None:
    session = requests.Session()
    session.trust_env = False
    try:
        with session, session.get(url, stream=True, timeout=FETCH_TIMEOUT_S) as answer:
            if answer.status_code == requests.codes.not_found:
                raise OutputUnavailable("ComfyUI reported a file that it does not have.")
            answer.raise_for_status()
            with draft.open("wb") as file:
                for chunk in answer.iter_content(CHUNK_BYTES):
                    file.write(chunk)
    except requests.RequestException as exc:
        raise ComfyUnavailable("The instance that holds an output does not answer.") from exc


def digest_of(path: Path) -> str:
    """`blake3:<64 hex digits>` of a file."""
    digest = blake3()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f"blake3:{digest.hexdigest()}"


def free_name(name: str, taken: set[str]) -> str:
    """The name, or `name (2).ext` when another output of the job has it: nothing is ever written over."""
    name = os.path.basename(name).lstrip(".") or "output"  # noqa: PTH119 - a string, not a path of this machine
    stem, extension = os.path.splitext(name)  # noqa: PTH122
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{stem} ({number}){extension}"
    taken.add(candidate)
    return candidate
