"""The folder of models of one GPU host: what of it was fetched, what was used when, and what may go.

Everything of ours beside the files themselves is in `<folder>/.comfyline`: a record for each fetched file, marks of
use, and locks. A file without a record is the operator's: it counts as there, and is neither replaced nor removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy.model_files.journal import journal_of
from core.errors import ModelRefused, ModelUnavailable

OWN_FOLDER = ".comfyline"
#: A file is noted as used at most so often.
USED_EVERY_S = 60.0
#: A part of a file that nobody wants any more is removed after so long.
PART_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class CachedFile:
    """A file that was fetched, and is in its place."""

    path: str
    sha256: str
    size_bytes: int
    #: When it was fetched or used last, whichever was later, in seconds since 1970.
    used_s: float

    @property
    def name(self) -> str:
        """What graphs call it."""
        return self.path.partition("/")[2]


class ModelCache:
    """The model files below one folder. Hosts that share the folder do not hurt each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self._own = self.folder / OWN_FOLDER

    def place_of(self, path: str) -> Path:
        """Return where a file belongs, by its path in the manifest."""
        return self.folder / path

    def part_of(self, path: str) -> Path:
        """Return where a file is gathered: beside its place, so that it can be moved there whatever is mounted where.

        No kind of model has this ending, so ComfyUI does not list it.
        """
        place = self.place_of(path)
        return place.with_name(f".{place.name}.part")

    def files(self) -> list[CachedFile]:
        """Return the fetched files that are in their places."""
        found = []
        for record in self._records():
            path = str(record["path"])
            if self._is_in_place(record):
                used_s = max(float(record["at_s"]), self._used_s(path.partition("/")[2]))
                found.append(
                    CachedFile(
                        path=path, sha256=str(record["sha256"]), size_bytes=int(record["size_bytes"]), used_s=used_s
                    )
                )
        return found

    def holds(self, path: str, *, sha256: str | None, size_bytes: int | None) -> int | None:
        """Return how large a file is that is there as wanted; None when it has to be fetched.

        Raises:
          ModelRefused: in its place is another file, which we did not fetch.
        """
        record = self._record(path)
        if record is not None:
            self._move(record)
        try:
            there = self.place_of(path).stat().st_size
        except OSError:
            return None
        if record is not None and self._is_in_place(record):
            return there if sha256 in (None, record["sha256"]) and size_bytes in (None, there) else None
        if size_bytes not in (None, there):
            raise ModelRefused(
                f"{path} is another file, of {there} bytes, which was not fetched by us: move it away, or mend the "
                "manifest."
            )
        return there

    def keep(self, path: str, *, sha256: str, size_bytes: int) -> None:
        """Move a gathered file into its place. Raises ModelUnavailable."""
        part = self.part_of(path)
        try:
            status = part.stat()
            record = {"path": path, "sha256": sha256, "size_bytes": size_bytes, "at_s": time.time()}
            # The file's own marks survive the move: a record is true of this file, and of none that takes its place.
            record |= {"inode": status.st_ino, "changed_ns": status.st_mtime_ns}
            self._own.joinpath("files").mkdir(parents=True, exist_ok=True)
            draft = self._record_path(path).with_suffix(".new")
            draft.write_text(json.dumps(record))
            draft.replace(self._record_path(path))
            part.replace(self.place_of(path))
            journal_of(part).unlink(missing_ok=True)
        except OSError as exc:
            raise ModelUnavailable(f"{path} cannot be put into its place: {exc.strerror}.") from exc

    def remove(self, path: str) -> None:
        """Remove a file that was fetched. Raises ModelUnavailable."""
        try:
            self.place_of(path).unlink(missing_ok=True)
            self._record_path(path).unlink(missing_ok=True)
        except OSError as exc:
            raise ModelUnavailable(f"{path} cannot be removed: {exc.strerror}.") from exc

    def remove_parts(self, *, spare: Collection[str]) -> None:
        """Remove parts that nobody has added to for a day.

        Parameters:
          spare: paths of files that may yet be wanted.
        """
        for part in self.folder.glob("*/**/.*.part"):
            path = part.with_name(part.name.removeprefix(".").removesuffix(".part")).relative_to(self.folder)
            with contextlib.suppress(OSError):
                if path.as_posix() not in spare and time.time() - part.stat().st_mtime > PART_S:
                    part.unlink()
                    journal_of(part).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Return how much room the disk has. Raises ModelUnavailable."""
        try:
            return shutil.disk_usage(self.folder).free
        except OSError as exc:
            raise ModelUnavailable(f"{self.folder} cannot be looked at: {exc.strerror}.") from exc

    def note_use(self, names: Iterable[str]) -> None:
        """Note that a job loads files, by the names that graphs have for them. Costs some microseconds each."""
        with contextlib.suppress(OSError):
            if not (self._own / "files").is_dir():
                return  # Nothing was ever fetched, and nothing will be sent away.
            folder = self._own / "used"
            folder.mkdir(exist_ok=True)
            for name in names:
                if time.time() - self._used_s(name) > USED_EVERY_S:
                    (folder / _key(name)).touch()

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Hold one of the folder's locks for the time of the block, among all hosts; False if another has it.

        A process must not take one twice: what it lets go first ends both.
        """
        self._own.joinpath("locks").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._own / "locks" / _key(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # A record lock: a pool process that was forked from the holder and outlives it does not hold it.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)

    def _move(self, record: dict[str, Any]) -> None:
        """Do what `keep` was killed before: its record is written, and its file still gathered."""
        part = self.part_of(str(record["path"]))
        with contextlib.suppress(OSError):
            if _marks(part) == (record["inode"], record["changed_ns"], record["size_bytes"]):
                part.replace(self.place_of(str(record["path"])))
                journal_of(part).unlink(missing_ok=True)

    def _records(self) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(OSError):
            for entry in sorted(self._own.joinpath("files").glob("*.json")):
                if (record := _read(entry)) is not None:
                    yield record

    def _record(self, path: str) -> dict[str, Any] | None:
        return _read(self._record_path(path))

    def _record_path(self, path: str) -> Path:
        return self._own / "files" / f"{_key(path)}.json"

    def _is_in_place(self, record: dict[str, Any]) -> bool:
        wanted = (record["inode"], record["changed_ns"], record["size_bytes"])
        with contextlib.suppress(OSError):
            return _marks(self.place_of(str(record["path"]))) == wanted
        return False

    def _used_s(self, name: str) -> float:
        try:
            return (self._own / "used" / _key(name)).stat().st_mtime
        except OSError:
            return 0.0


def _marks(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _key(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    needed = {"path", "sha256", "size_bytes", "at_s", "inode", "changed_ns"}
    return record if isinstance(record, dict) and needed <= record.keys() else None
