"""The folder of models of one GPU host: what of it was fetched, what was used when, and what may go.

Everything of ours beside the files themselves is in `<folder>/.comfyline`: a record for each fetched file, marks of
use and of what was missed, and locks. A file without a record is the operator's: it counts as there, and is neither
replaced nor removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy.model_files.journal import journal_of
from core.errors import ModelRefused, ModelUnavailable
from core.records.model_file import ModelFile

OWN_FOLDER = ".comfyline"
#: Of what is gathered, before it is moved into its place: other tools leave hidden files that end with `.part`, too.
PART_SUFFIX = ".comfyline.part"
#: A file is noted as used at most so often.
USED_EVERY_S = 60.0
#: A part of a file that nobody waits for is removed after so long.
PART_S = 24 * 3600.0
#: What a host could not start without is kept for so long; then it may go like others.
MISSED_S = 7 * PART_S
#: The locks that this process has, by their files: the system would give it each of them a second time.
_taken: set[Path] = set()
_taken_guard = threading.Lock()


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

    def differs_from(self, entry: ModelFile) -> bool:
        """Return whether the manifest says another file."""
        return entry.sha256 not in (None, self.sha256) or entry.size_bytes not in (None, self.size_bytes)


@dataclass(frozen=True, kw_only=True)
class PartFile:
    """A file that is being gathered, or was."""

    path: str
    #: What it takes of the disk now, and how large the file is in which its bytes stand.
    disk_bytes: int
    whole_bytes: int
    #: When it was written to last, in seconds since 1970.
    used_s: float

    @property
    def name(self) -> str:
        """What graphs call the file."""
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
        return place.with_name(f".{place.name}{PART_SUFFIX}")

    def make_folders(self, kinds: Iterable[str]) -> None:
        """Make folders of models, as far as that can be done: instances that start later look into them."""
        for kind in kinds:
            with contextlib.suppress(OSError):
                (self.folder / kind).mkdir(exist_ok=True)

    def no_folder(self, path: str, exc: OSError) -> ModelRefused | ModelUnavailable:
        """Return what to say of a file whose folder cannot be made."""
        above = (self.folder / each for each in Path(path).parents)
        if (file := next((each for each in above if each.is_file()), None)) is not None:
            return ModelRefused(
                f"{path} belongs below {file.relative_to(self.folder)}, which is a file on this host, and no folder: "
                "move it away, or mend the manifest."
            )
        return ModelUnavailable(f"{self.part_of(path).parent} cannot be made: {exc.strerror}.")

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
            status = self.place_of(path).stat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise ModelRefused(f"{path} is a folder on this host, and no file: move it away, or mend the manifest.")
        there = status.st_size
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

    def parts(self) -> list[PartFile]:
        """Return what is gathered of files that are not in their places yet, by whichever host."""
        found = []
        for part in sorted(self.folder.glob(f"*/**/.*{PART_SUFFIX}")):
            with contextlib.suppress(OSError):
                status = part.stat()
                place = part.with_name(part.name.removeprefix(".").removesuffix(PART_SUFFIX))
                found.append(
                    PartFile(
                        path=place.relative_to(self.folder).as_posix(),
                        disk_bytes=min(status.st_size, 512 * status.st_blocks),
                        whole_bytes=status.st_size,
                        used_s=status.st_mtime,
                    )
                )
        return found

    def is_under_way(self, path: str) -> bool:
        """Return whether somebody fetches a file, on whichever host."""
        with self.fetching(path) as is_ours:
            return not is_ours

    def remove_part(self, path: str) -> bool:
        """Remove what is gathered of a file, unless somebody fetches it; returns whether it is gone."""
        with self.fetching(path) as is_ours:
            if is_ours:
                self.drop_part(path)
            return is_ours

    def drop_part(self, path: str) -> None:
        """Remove what is gathered of a file whose lock the caller has."""
        part = self.part_of(path)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
            journal_of(part).unlink(missing_ok=True)

    def remove_parts(self, *, known: Collection[str], wanted: Collection[str]) -> None:
        """Remove parts of files that left the manifest, and those that nobody waits for or has added to for a day.

        Parameters:
          known: paths of the manifest.
          wanted: paths of files that are to be fetched.
        """
        for part in self.parts():
            is_old = part.path not in wanted and time.time() - part.used_s > PART_S
            if part.path not in known or is_old:
                self.remove_part(part.path)

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

    def note_missed(self, names: Iterable[str]) -> None:
        """Note that a host cannot start without files, by the names that graphs have for them."""
        with contextlib.suppress(OSError):
            for name in names:
                (self._own / "missed").mkdir(parents=True, exist_ok=True)
                (self._own / "missed" / _key(name)).touch()

    def missed(self) -> Callable[[str], bool]:
        """Return what tells whether a file has been missed so within a week, by its name."""
        keys = set()
        with contextlib.suppress(OSError):
            for mark in (self._own / "missed").iterdir():
                if time.time() - mark.stat().st_mtime < MISSED_S:
                    keys.add(mark.name)
        return lambda name: bool(keys) and _key(name) in keys

    def fetching(self, path: str) -> contextlib.AbstractContextManager[bool]:
        """Hold the lock of a file's part for the time of the block; False if somebody else has it."""
        return self.locked(f"file {path}")

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Hold one of the folder's locks for the time of the block; False if another thread, process or host has it."""
        lock = self._own / "locks" / _key(name)
        with _taken_guard:
            is_free = lock not in _taken
            if is_free:
                _taken.add(lock)
        if not is_free:
            yield False
            return
        try:
            with self._locked(lock) as is_ours:
                yield is_ours
        finally:
            with _taken_guard:
                _taken.discard(lock)

    @contextlib.contextmanager
    def _locked(self, lock: Path) -> Iterator[bool]:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
