"""The local storage: files by key, below one directory that every machine sees, on a disk or a shared file system."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path

from core.job_files import job_folder
from core.storage.placing import LocalFile, Told

#: A file that was put, or put again, within this time is not removed: somebody may be about to record it.
FRESH_S = 3600.0


class BucketFault(OSError):
    """A bucket that is the storage does not answer, or refuses: not the file is at fault, and what it says is why."""


def is_out_of_room(error: BaseException) -> bool:
    """Return whether the system refused a write because a disk, or a quota, is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def make_folder(folder: Path, root: Path) -> None:
    """Create a folder below a root, and the root; never what the root is in: that may be a mount that is missing."""
    root.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def move_in(file: Path, target: Path) -> None:
    """Bring a file to its place. At every moment it is whole, under its old name or under its new one."""
    try:
        file.replace(target)
    except OSError:
        # Another file system: copy, and only then remove.
        copy_in(file, target)
        file.unlink()


def copy_in(file: Path, target: Path) -> None:
    """Bring a copy of a file to its place, whole or not at all."""
    draft = target.with_name(f".{target.name}.part")
    shutil.copyfile(file, draft)
    draft.replace(target)


class LocalStorage:
    """The `StorageBackend` of a directory.

    Parameters:
      root: the directory; made when the first file comes.
    """

    is_remote = False

    def __init__(self, root: Path) -> None:
        self.root = root
        #: A job's files are made ready where they stay.
        self.workplace = root

    def draft(self) -> Path:
        """Return a new path in the storage's own file system, for a file that is to be `put`; the caller removes it."""
        folder = self.root / ".drafts"
        make_folder(folder, self.root)
        return folder / uuid.uuid4().hex

    def put(self, key: str, file: Path, *, is_needed: bool = False) -> None:  # noqa: ARG002 - it costs nothing here
        """Bring a file in. One that is there already stays: equal keys mean equal bytes."""
        target = self._path(key)
        try:
            # Whoever removes files looks at this time, see `discard`.
            os.utime(target)
            file.unlink()
        except FileNotFoundError:
            make_folder(target.parent, self.root)
            move_in(file, target)

    def take_over(self, source: object, source_key: str, key: str, *, size_bytes: int, digest: str) -> bool:  # noqa: ARG002
        """Return False: here whoever asks is who copies."""
        return False

    def keep(self, files: Sequence[LocalFile]) -> None:
        """Bring in copies of files; nothing is to be done where one lies in its place."""
        for file in files:
            target = self._path(file.key)
            if file.path != target:
                make_folder(target.parent, self.root)
                copy_in(file.path, target)

    def open(self, key: str, *, size_bytes: int) -> FileIO:
        """Open a file for reading at any place. Raises FileNotFoundError: there is none, or none of this size.

        Each step of the path is opened by itself and links are not followed, so nothing outside the root can be meant.
        """
        parts = key.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise FileNotFoundError(key)
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for number, part in enumerate(parts, start=1):
                kind = os.O_DIRECTORY if number < len(parts) else os.O_NONBLOCK
                inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size != size_bytes:
                raise FileNotFoundError(key)
            return FileIO(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise

    def touch(self, key: str) -> None:
        """Keep a file from being removed for a while: it is about to be recorded. Raises FileNotFoundError."""
        os.utime(self._path(key))

    def copy(self, key: str, target: Path, told: Told | None = None) -> None:  # noqa: ARG002 - a disk is soon done
        """Copy a file out, whole or not at all. Raises FileNotFoundError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            # A copy and no link: what is done to it there must not reach what others share.
            shutil.copyfile(self._path(key), draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """Give the path of a file. Raises FileNotFoundError."""
        yield self.path(key)

    def path(self, key: str) -> Path:
        """Return the path of a file. Raises FileNotFoundError."""
        path = self._path(key)
        if not path.is_file():
            raise FileNotFoundError(key)
        return path

    def discard(self, key: str) -> bool:
        """Remove a file that is not referred to, unless it was put again lately; returns whether it went.

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
        """Yield the key of every file, one folder after the other, in no order."""
        with contextlib.suppress(FileNotFoundError):
            folders = [self.root / name for name in self.folders() if (self.root / name).is_dir()]
            random.shuffle(folders)
            for folder in folders:
                yield from (f"{folder.name}/{path.name}" for path in folder.iterdir() if not path.name.startswith("."))

    def folders(self) -> Iterator[str]:
        """Return the name of every folder, in no order. Raises FileNotFoundError: there is no storage yet."""
        # One after the other: there may be millions, too many to have in memory at once.
        with os.scandir(self.root) as entries:
            yield from (entry.name for entry in entries if not entry.name.startswith("."))

    def folder_age_s(self, folder: str) -> float:
        """Return the seconds since a folder was last changed; infinite where there is none."""
        return age_s(self.root / folder)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with all files in it; nothing happens when there is none."""
        shutil.rmtree(job_folder(self.root, folder), ignore_errors=True)

    def clear_workplace(self, folder: str) -> None:
        """Do nothing: the files lie where they stay."""

    def is_due(self, work: str, *, every_s: float) -> bool:
        """Return whether nobody in the fleet has begun a piece of work for so long, and note that it begins now."""
        mark = self.root / work
        # A mark from the future is one from before the clock was set back.
        if not self.root.is_dir() or 0 <= age_s(mark) < every_s:
            return False
        mark.touch()
        return True

    def link(self, key: str, *, content_type: str, disposition: str, expires_s: int) -> str | None:  # noqa: ARG002
        """Return None: a directory hands nothing out."""
        return None

    def free_bytes(self) -> int | None:
        """Return the room that is left for users without privileges."""
        return shutil.disk_usage(self.root).free

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


def age_s(path: Path) -> float:
    """Return the seconds since a file or a folder was last changed; infinite where there is none."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def content_key(digest: str) -> str:
    """Return the key of a file by its hash (64 hex digits): equal files are kept once."""
    return f"{digest[:2]}/{digest}"
