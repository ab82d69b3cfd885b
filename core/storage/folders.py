"""Files by key, below one directory that every machine of the fleet sees: a local disk, or a shared file system."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from core.storage.job_files import job_folder

#: A file that was put, or put again, within this time is not removed: somebody may be about to record it.
FRESH_S = 3600.0


def is_out_of_room(error: BaseException) -> bool:
    """Whether the system refused a write because a disk, or a quota, is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def make_folder(folder: Path, root: Path) -> None:
    """Create a folder below a root, and the root; never what the root is in: that may be a mount that is missing."""
    root.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


class Storage:
    """Whole files only: a key names all of a file's bytes, or nothing.

    Parameters:
      root: the directory; made when the first file comes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def draft(self) -> Path:
        """A new path in the storage's own file system, for a file that is to be `put`; the caller removes it."""
        folder = self.root / ".drafts"
        make_folder(folder, self.root)
        return folder / uuid.uuid4().hex

    def put(self, key: str, draft: Path) -> None:
        """Bring a draft in. A file that is there already stays: equal keys mean equal bytes."""
        target = self._path(key)
        try:
            # Whoever removes files looks at this time, see `discard`.
            os.utime(target)
            draft.unlink()
        except FileNotFoundError:
            make_folder(target.parent, self.root)
            draft.replace(target)

    def touch(self, key: str) -> None:
        """Keep a file from being removed for a while: it is about to be recorded. Raises FileNotFoundError."""
        os.utime(self._path(key))

    def copy(self, key: str, target: Path) -> None:
        """Copy a file out, whole or not at all. Raises FileNotFoundError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            # A copy and no link: what is done to it there must not reach what others share.
            shutil.copyfile(self._path(key), draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def path(self, key: str) -> Path:
        """Where a file is. Raises FileNotFoundError."""
        path = self._path(key)
        if not path.is_file():
            raise FileNotFoundError(key)
        return path

    def discard(self, key: str) -> bool:
        """Remove a file that nobody refers to, unless it was put again lately; whether it went.

        It is set aside first: a `put` that comes later finds nothing and brings its own bytes, one that came before
        has left its time on the file.
        """
        target = self._path(key)
        aside = self.draft()
        try:
            if time.time() - target.stat().st_mtime < FRESH_S:
                return False
            target.rename(aside)
        except FileNotFoundError:
            return False
        if time.time() - aside.stat().st_mtime < FRESH_S:
            with contextlib.suppress(FileExistsError):
                os.link(aside, target)
            aside.unlink()
            return False
        aside.unlink()
        return True

    def keys(self) -> Iterator[str]:
        """The key of every file, one folder after the other, in no order."""
        with contextlib.suppress(FileNotFoundError):
            folders = [path for path in self.root.iterdir() if not path.name.startswith(".") and path.is_dir()]
            random.shuffle(folders)
            for folder in folders:
                yield from (f"{folder.name}/{path.name}" for path in folder.iterdir() if not path.name.startswith("."))

    def sweep_drafts(self) -> None:
        """Remove drafts that their makers left behind when they died."""
        with contextlib.suppress(FileNotFoundError):
            for draft in (self.root / ".drafts").iterdir():
                with contextlib.suppress(OSError):
                    if time.time() - draft.stat().st_mtime > FRESH_S:
                        draft.unlink()

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") or part.startswith(".") or "\0" in part for part in parts):
            raise ValueError(f"not a key: {key!r}")
        return self.root.joinpath(*parts)


def remove_job(outputs: Path, job_id: str) -> None:
    """Delete a job's files below the outputs; nothing happens when there are none."""
    shutil.rmtree(job_folder(outputs, job_id), ignore_errors=True)


def content_key(digest: str) -> str:
    """The key of a file by its hash (64 hex digits): equal files are kept once."""
    return f"{digest[:2]}/{digest}"
