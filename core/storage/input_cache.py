"""Input files that a GPU host keeps of a bucket, so that each comes down once; the longest unused go first.

<folder>/<two digits>/<hash>  a file, whole
<folder>/drafts/              files on their way
<folder>/locks/<hash>         held by whoever fetches this file: all workers of the host share the folder
<folder>/total                how many bytes are kept; whoever changes that holds it

Who dies lets go of its locks, and leaves nothing but a draft. What a disk has spoilt is found by its hash at each use.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from blake3 import blake3

from core.settings import Settings
from core.storage.folders import FRESH_S, BucketFault, age_s, is_out_of_room, move_in
from core.storage.placing import CHUNK_BYTES, digest_of

log = logging.getLogger(__name__)

GIGABYTE = 10**9
#: What is kept goes down to this share of its limit when it has to: looking at all of it is not for every file.
MADE_ROOM = 0.9
#: So many times the room that instances need for outputs stays free on the disk.
SPARED = 2
#: How often somebody else's fetch is looked at, and for how long it may stand still before we fetch for ourselves.
LOOK_S = 0.05
PATIENCE_S = 60.0
_HASH = re.compile("[0-9a-f]{64}")

#: Brings the file of a key to a path, whole or not at all. Raises OSError.
Fetch = Callable[[str, Path], None]


class InputCache:
    """The cache of one host. Safe to share between threads, and between processes by its folder.

    Parameters:
      most_bytes: of all files together.
      spared_bytes: of the disk, which stay free.
    """

    def __init__(self, folder: Path, *, most_bytes: int, spared_bytes: int = 0) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._spared_bytes = spared_bytes
        self._drafts = folder / "drafts"
        self._locks = folder / "locks"

    def bring(self, key: str, target: Path, fetch: Fetch) -> bool:
        """Put a copy of a file to a path, whole or not at all; returns whether it had to be fetched.

        Raises:
          FileNotFoundError: storage has no such file.
          BucketFault: storage cannot be asked, or what came is not what the key names.
          OSError: this disk has no room, or is at fault.
        """
        digest = key.rpartition("/")[2]
        if self._most_bytes <= 0 or _HASH.fullmatch(digest) is None:
            fetch(key, target)
            return True
        place = self._folder / digest[:2] / digest
        if _copied(place, digest, target):
            return False
        with self._alone(digest) as is_alone:
            # Whoever had it before us has most likely brought it.
            if _copied(place, digest, target):
                return False
            if is_alone:
                self._fetch(key, digest, place, target, fetch)
            else:
                fetch(key, target)
        return True

    def forget(self, *, unused_s: float) -> int:
        """Remove what nobody has used for so long, and what the dead have left; returns how many files went."""
        if not self._folder.is_dir():
            return 0
        with self._total() as total:
            went = sum(age_s(path) > unused_s and _removed(path) for path in list(self._files()))
            total.value = self._kept_bytes()
        for folder in (self._drafts, self._locks):
            with contextlib.suppress(FileNotFoundError):
                for path in folder.iterdir():
                    if age_s(path) > max(unused_s, FRESH_S):
                        _removed(path)
        return went

    def give_way(self) -> int:
        """Remove files until the disk has the room again that is to be spared; returns how many bytes went."""
        if not self._folder.is_dir():
            return 0
        with self._total() as total:
            before = self._kept_bytes()
            short = self._spared_bytes - shutil.disk_usage(self._folder).free
            total.value = self._evict(before - short) if short > 0 else before
            return before - total.value

    def _fetch(self, key: str, digest: str, place: Path, target: Path, fetch: Fetch) -> None:
        """Fetch a file that nobody else fetches."""
        self._drafts.mkdir(exist_ok=True)
        self._sweep(digest)
        draft = self._drafts / f"{digest}.{uuid.uuid4().hex[:8]}"
        try:
            self._fetch_draft(key, draft, fetch)
            if digest_of(draft) != f"blake3:{digest}":
                raise BucketFault(errno.EIO, "an object is not what its key says, by its hash")
            if not self._kept(draft, place):
                target.parent.mkdir(parents=True, exist_ok=True)
                move_in(draft, target)
            elif not _copied(place, digest, target):
                # It went in the moment in between.
                fetch(key, target)
        finally:
            draft.unlink(missing_ok=True)

    def _fetch_draft(self, key: str, draft: Path, fetch: Fetch) -> None:
        try:
            fetch(key, draft)
        except OSError as exc:
            if isinstance(exc, BucketFault) or not is_out_of_room(exc):
                raise
            log.warning("the disk is full: all input files go from the cache")
            with self._total() as total:
                total.value = self._evict(0)
            fetch(key, draft)

    def _kept(self, draft: Path, place: Path) -> bool:
        """Give a draft its place, if there is room or can be made; return whether it has it."""
        size_bytes = draft.stat().st_size
        with self._total() as total:
            room = self._room(total.value, size_bytes)
            if total.value < 0 or total.value + size_bytes > room:
                kept = self._kept_bytes()
                room = self._room(kept, size_bytes)
                if kept + size_bytes > room:
                    kept = self._evict(min(int(MADE_ROOM * room), room - size_bytes)) if size_bytes <= room else kept
                total.value = kept
            if total.value + size_bytes > room:
                return False
            # Counted before it is there: should we die in between, too much is counted and not too little.
            total.value += size_bytes
            total.write()
            place.parent.mkdir(exist_ok=True)
            draft.replace(place)
        return True

    def _room(self, kept_bytes: int, new_bytes: int) -> int:
        """How many bytes may be kept, with so many kept now, and so many on this disk that are to be kept as well."""
        free = shutil.disk_usage(self._folder).free
        return min(self._most_bytes, max(0, kept_bytes) + new_bytes + free - self._spared_bytes)

    def _evict(self, to_bytes: int) -> int:
        """Remove the longest unused until so many bytes are left, but none in use; returns how many are left."""
        found = []
        for path in self._files():
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        left = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if left <= to_bytes:
                break
            if _removed(path):
                left -= size
        return left

    def _kept_bytes(self) -> int:
        kept = 0
        for path in self._files():
            with contextlib.suppress(OSError):
                kept += path.stat().st_size
        return kept

    def _files(self) -> Iterator[Path]:
        for folder in self._folder.iterdir():
            if len(folder.name) == 2 and folder.is_dir():
                yield from (path for path in folder.iterdir() if _HASH.fullmatch(path.name))

    def _sweep(self, digest: str) -> None:
        """Remove drafts whose makers have died: of the file that is ours alone now, and old ones."""
        for draft in self._drafts.iterdir():
            with contextlib.suppress(OSError):
                if draft.name.lstrip(".").startswith(digest) or age_s(draft) > FRESH_S:
                    draft.unlink()

    @contextlib.contextmanager
    def _alone(self, digest: str) -> Iterator[bool]:
        """Be the only one who fetches a file, as soon as nobody else does; False: somebody else comes to no end."""
        self._folder.mkdir(exist_ok=True)
        self._locks.mkdir(exist_ok=True)
        path = self._locks / digest
        descriptor, seen, since_s = None, -1, time.monotonic()
        while (descriptor := _locked(path)) is None:
            came = self._on_its_way(digest)
            if came != seen:
                seen, since_s = came, time.monotonic()
            elif time.monotonic() - since_s > PATIENCE_S:
                break
            time.sleep(LOOK_S)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                path.unlink(missing_ok=True)
                os.close(descriptor)

    def _on_its_way(self, digest: str) -> int:
        came = 0
        with contextlib.suppress(OSError):
            for draft in self._drafts.iterdir():
                if draft.name.lstrip(".").startswith(digest):
                    came += draft.stat().st_size
        return came

    @contextlib.contextmanager
    def _total(self) -> Iterator[_Total]:
        """Hold the count of what is kept; it is written at the end."""
        descriptor = os.open(self._folder / "total", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            total = _Total(descriptor)
            yield total
            total.write()
        finally:
            os.close(descriptor)


class _Total:
    """The count in its file, held. -1: nobody knows."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        text = os.pread(descriptor, 32, 0)
        self.value = int(text) if text.isdigit() else -1

    def write(self) -> None:
        os.ftruncate(self._descriptor, 0)
        if self.value >= 0:
            os.pwrite(self._descriptor, str(self.value).encode(), 0)


def input_cache(settings: Settings) -> InputCache:
    """Return the cache of this host."""
    return InputCache(
        settings.data_dir / "input-cache",
        most_bytes=int(settings.input_cache_gb * GIGABYTE),
        spared_bytes=SPARED * settings.min_free_disk_bytes,
    )


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds a lock file, None: somebody else does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before us has removed it: then another file is the lock now.
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _copied(place: Path, digest: str, target: Path) -> bool:
    """Copy a file out that is kept, whole or not at all; False: it is not there, or spoilt, and then it goes."""
    try:
        source = place.open("rb")
    except FileNotFoundError:
        return False
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    with source:
        # Nobody removes it meanwhile. It was used now: who makes room looks at this time.
        fcntl.flock(source, fcntl.LOCK_SH)
        found = blake3()
        try:
            os.utime(source.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                while piece := source.read(CHUNK_BYTES):
                    found.update(piece)
                    file.write(piece)
            if found.hexdigest() == digest:
                draft.replace(target)
                return True
        except OSError as exc:
            if is_out_of_room(exc):
                raise
            # A disk that cannot read it: it may come anew.
            log.warning("input file %s cannot be copied from the cache: %s", place, exc.strerror)
        finally:
            draft.unlink(missing_ok=True)
    log.warning("input file %s is spoilt, and goes from the cache", place)
    place.unlink(missing_ok=True)
    return False


def _removed(path: Path) -> bool:
    """Remove a kept file unless it is in use."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:
        return False
    return True
