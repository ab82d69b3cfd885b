"""Copies the files of a directory that was a fleet's storage into a bucket that is to be it, while the fleet runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from blake3 import blake3

from core.errors import ConfigurationError, NotFound, StorageUnavailable
from core.ledger import Ledger
from core.ledger.input_files import InputFile, InputFiles
from core.ledger.outputs import Outputs
from core.records.output import Output
from core.settings import Settings
from core.storage.folders import LocalStorage
from core.storage.marked_bucket import MarkedBucket
from core.storage.marked_directory import MarkedDirectory
from core.storage.objects import S3Storage
from core.storage.placing import CHUNK_BYTES, LocalFile, digest_of

T = TypeVar("T")

#: In the directory that is copied, so that machines which share it know of each other.
LOCK = "storage-copy.lock"

#: Files on their way at once.
THREADS = 8
#: Files of one batch: what is under way is waited for before more are looked up.
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A file that the ledger knows and nobody can copy."""

    key: str
    #: What is wrong with it.
    why: str
    #: The output or input file, and the job it belongs to; None where no job does.
    asset_id: str
    job_id: str | None = None


@dataclass(kw_only=True)
class Copied:
    """What became of the files of a directory."""

    #: Brought into the bucket, and read back from it with the same hash.
    copied: int = 0
    #: There already, by size and hash.
    known: int = 0
    #: Not recorded in the ledger: parts of jobs that have not ended, and what is about to be removed.
    unrecorded: int = 0
    #: Not what the ledger says they are, and those that are neither in the directory nor in the bucket.
    lost: list[Lost] = field(default_factory=list)
    #: The bucket is the fleet's, or the first process that is started on it makes it that.
    is_ready: bool = False


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the ledger says of a file in storage."""

    key: str
    digest: str
    size_bytes: int = 0
    asset_id: str = ""
    job_id: str | None = None

    def lost(self, why: str) -> Lost:
        """Return it as one that nobody can copy."""
        return Lost(key=self.key, why=why, asset_id=self.asset_id, job_id=self.job_id)


@contextlib.contextmanager
def alone(source: Path) -> Iterator[None]:
    """Be the only one that copies a directory, for the time of the block.

    Raises: StorageUnavailable - another process copies it.
    """
    try:
        descriptor = os.open(source / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        # It is only read here: then two of them do the same work twice, and no harm.
        yield
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as exc:
        who = os.pread(descriptor, 300, 0).decode(errors="replace")
        raise StorageUnavailable(
            f"{source} is being copied already, by {who or 'another process'}: wait for it."
        ) from exc
    else:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


class StorageCopy:
    """One run of the command.

    Parameters:
      settings: name the bucket.
      source: the directory that has `outputs` and `inputs`.
    Raises:
      ConfigurationError: the directory, or the bucket, is not this fleet's.
      StorageUnavailable: the bucket does not answer.
    """

    def __init__(self, settings: Settings, source: Path, ledger: Ledger) -> None:
        self._moves = ledger.storage_moves
        self._bucket = MarkedBucket(settings)
        ids = self._moves.ids()
        if ids is None:
            raise ConfigurationError("This fleet has no storage yet: nothing is to be copied. Start it on the bucket.")
        directory = settings.model_copy(update={"storage_url": "", "storage_dir": source})
        marked = MarkedDirectory(directory)
        # One that the fleet has left may still have what came last.
        if marked.marker_id() not in ids.left and (problem := marked.problem(ids)) is not None:
            raise ConfigurationError(problem)
        if (why := self._bucket.away()) is not None:
            raise StorageUnavailable(f"{why}. Run the command again when it answers.")
        if (problem := self._bucket.check_rights() or self._bucket.foreign(self._moves.fleet())) is not None:
            raise ConfigurationError(problem)
        self._areas: list[tuple[LocalStorage, S3Storage, Records]] = [
            (LocalStorage(directory.outputs_dir), S3Storage(settings, "outputs"), OutputRecords(ledger.outputs)),
            (LocalStorage(directory.inputs_dir), S3Storage(settings, "inputs"), InputRecords(ledger.input_files)),
        ]

    def total_bytes(self) -> int:
        """Return how much the files of the directory hold together, as far as they are there yet."""
        return sum(sum(map(partial(_size_of, local), local.keys())) for local, *_ in self._areas)

    def run(self, on_bytes: Callable[[int], None], *, despite_losses: bool = False) -> Copied:
        """Copy what is not there yet; done again, it goes on where it was. At the end the fleet may move to the bucket.

        Parameters:
          on_bytes: is told the size of each file that is done.
          despite_losses: the fleet may move also if some of its files are lost.
        Raises: OSError - a file cannot be read, or the bucket does not take it.
        """
        result = Copied()
        with ThreadPoolExecutor(THREADS) as pool:
            for local, bucket, records in self._areas:
                for keys in _batches(local.keys()):
                    steps = [pool.submit(self._copy, local, bucket, records, key) for key in keys]
                    for key, step in zip(keys, steps, strict=True):
                        _count(result, step.result())
                        on_bytes(_size_of(local, key))
                for kept in _batches(records.kept()):
                    gone = (record for record in kept if not _size_of(local, record.key))
                    result.lost += filter(None, pool.map(partial(_missing, local, bucket, records), gone))
        if not result.lost or despite_losses:
            self._make_ready()
            result.is_ready = True
        return result

    def _make_ready(self) -> None:
        """Have the fleet move to the bucket with the first process that is started there, unless it has moved."""
        ids, there = self._moves.ids(), self._bucket.marker_id()
        if ids is None or there is None or there not in (ids.current, ids.next):
            self._bucket.mark(self._moves.prepare(), self._moves.fleet())

    def _copy(self, local: LocalStorage, bucket: S3Storage, records: Records, key: str) -> str | Lost:
        record = records.at(key)
        if record is None:
            return "unrecorded"
        try:
            path = local.path(key)
            size_bytes = path.stat().st_size
            if bucket.has(key, size_bytes, record.digest):
                return "known"
            if digest_of(path) != record.digest:
                return record.lost("is not what the ledger says it is, by its hash")
            file = LocalFile(key=key, path=path, digest=record.digest, content_type="application/octet-stream")
            bucket.keep([file])
        except FileNotFoundError:
            # Its time was over.
            return "unrecorded"
        if _digest_in(bucket, key, size_bytes) != record.digest:
            return record.lost("came out of the bucket otherwise than it went in")
        return "copied"


class Records(Protocol):
    """What the ledger says of the files of one storage."""

    def at(self, key: str) -> Record | None:
        """Return what it says of a key; None: nothing refers to it."""

    def kept(self) -> Iterator[Record]:
        """Yield what it says of all files that are to be there."""


class OutputRecords:
    """The `Records` of outputs."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    def at(self, key: str) -> Record | None:
        """Return what the ledger says of a key; None: nothing refers to it."""
        try:
            found = self._outputs.output_at(key)
        except NotFound:
            return None
        return None if found.is_expired or found.storage_key is None else _record_of(found)

    def kept(self) -> Iterator[Record]:
        """Yield what it says of all files that are to be there."""
        after = ""
        while page := self._outputs.kept(after=after):
            yield from map(_record_of, page)
            after = page[-1].id


class InputRecords:
    """The `Records` of input files."""

    def __init__(self, input_files: InputFiles) -> None:
        self._files = input_files

    def at(self, key: str) -> Record | None:
        """Return what the ledger says of a key; None: nothing refers to it."""
        if self._files.unknown([key]):
            return None
        digest = f"blake3:{key.rpartition('/')[2]}"
        found = self._files.by_hash(digest)
        # One that only a job refers to has no record of its own any more.
        return Record(key=key, digest=digest) if found is None else _record_of_input(found)

    def kept(self) -> Iterator[Record]:
        """Yield what it says of all files that are to be there."""
        after = ""
        while page := self._files.kept(after=after):
            for file in page:
                yield _record_of_input(file)
            after = page[-1].id


def _record_of_input(file: InputFile) -> Record:
    return Record(
        key=file.storage_key, digest=file.hash, size_bytes=file.size_bytes, asset_id=file.id, job_id=file.job_id
    )


def _record_of(output: Output) -> Record:
    return Record(
        key=output.storage_key or "",
        size_bytes=output.size_bytes,
        digest=output.hash or "",
        asset_id=output.id,
        job_id=output.job_id,
    )


def _missing(local: LocalStorage, bucket: S3Storage, records: Records, record: Record) -> Lost | None:
    """Return a file as lost if it is in neither place, and still should be."""
    if bucket.has(record.key, record.size_bytes, record.digest) or _size_of(local, record.key):
        return None
    return None if records.at(record.key) is None else record.lost("is neither in the directory nor in the bucket")


def _count(result: Copied, what: str | Lost) -> None:
    if isinstance(what, Lost):
        result.lost.append(what)
    else:
        setattr(result, what, getattr(result, what) + 1)


def _size_of(local: LocalStorage, key: str) -> int:
    try:
        return local.path(key).stat().st_size
    except FileNotFoundError:
        return 0


def _digest_in(bucket: S3Storage, key: str, size_bytes: int) -> str:
    digest = blake3()
    with bucket.open(key, size_bytes=size_bytes) as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return f"blake3:{digest.hexdigest()}"


def _batches(items: Iterator[T]) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
