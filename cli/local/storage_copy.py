"""Copies the files of a directory that was a fleet's storage into a bucket that is to be it, while the fleet runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from blake3 import blake3

from core.errors import ConfigurationError, NotFound, StorageUnavailable
from core.ledger import Ledger
from core.ledger.facts import FLEET, STORAGE
from core.settings import Settings
from core.storage.folders import LocalStorage
from core.storage.marked_bucket import MarkedBucket
from core.storage.marked_directory import MarkedDirectory
from core.storage.objects import S3Storage
from core.storage.placing import CHUNK_BYTES, LocalFile, digest_of

#: Files on their way at once.
THREADS = 8
#: Files of one batch: what is under way is waited for before more are looked up.
BATCH = 256


@dataclass(kw_only=True)
class Copied:
    """What became of the files of a directory."""

    #: Brought into the bucket, and read back from it with the same hash.
    copied: int = 0
    #: There already, by size and hash.
    known: int = 0
    #: Not recorded in the ledger: parts of jobs that have not ended, and what is about to be removed.
    unrecorded: int = 0
    #: Keys of files that are not what the ledger says they are.
    damaged: list[str] = field(default_factory=list)


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
        self._ledger = ledger
        self._bucket = MarkedBucket(settings)
        known = ledger.facts.get(STORAGE)
        if known is None:
            raise ConfigurationError("This fleet has no storage yet: nothing is to be copied. Start it on the bucket.")
        directory = settings.model_copy(update={"storage_url": "", "storage_dir": source})
        if (problem := MarkedDirectory(directory).problem(known)) is not None:
            raise ConfigurationError(problem)
        self._marker = known, ledger.facts.get(FLEET) or ""
        if (why := self._bucket.away()) is not None:
            raise StorageUnavailable(f"{why}. Run the command again when it answers.")
        if (problem := self._bucket.check_rights() or self._bucket.foreign(self._marker[1])) is not None:
            raise ConfigurationError(problem)
        self._areas = [
            (LocalStorage(directory.outputs_dir), S3Storage(settings, "outputs"), self._hash_of_output),
            (LocalStorage(directory.inputs_dir), S3Storage(settings, "inputs"), self._hash_of_input),
        ]

    def total_bytes(self) -> int:
        """Return how much the files of the directory hold together, as far as they are there yet."""
        return sum(sum(map(partial(_size_of, local), local.keys())) for local, *_ in self._areas)

    def run(self, on_bytes: Callable[[int], None]) -> Copied:
        """Copy what is not there yet; done again, it goes on where it was. The bucket is the fleet's at the end.

        Parameters:
          on_bytes: is told the size of each file that is done.
        Raises: OSError - a file cannot be read, or the bucket does not take it.
        """
        result = Copied()
        with ThreadPoolExecutor(THREADS) as pool:
            for local, bucket, hash_of in self._areas:
                for keys in _batches(local.keys()):
                    steps = [pool.submit(self._copy, local, bucket, hash_of, key) for key in keys]
                    for key, step in zip(keys, steps, strict=True):
                        _count(result, key, step.result())
                        on_bytes(_size_of(local, key))
        if not result.damaged:
            self._bucket.mark(*self._marker)
        return result

    def _copy(self, local: LocalStorage, bucket: S3Storage, hash_of: Callable[[str], str | None], key: str) -> str:
        wanted = hash_of(key)
        if wanted is None:
            return "unrecorded"
        try:
            path = local.path(key)
            size_bytes = path.stat().st_size
            if bucket.has(key, size_bytes, wanted):
                return "known"
            if digest_of(path) != wanted:
                return "damaged"
            bucket.keep([LocalFile(key=key, path=path, digest=wanted, content_type="application/octet-stream")])
        except FileNotFoundError:
            # Its time was over.
            return "unrecorded"
        if _digest_in(bucket, key, size_bytes) != wanted:
            return "damaged"
        return "copied"

    def _hash_of_output(self, key: str) -> str | None:
        try:
            return self._ledger.outputs.output_at(key).hash
        except NotFound:
            return None

    def _hash_of_input(self, key: str) -> str | None:
        return None if self._ledger.input_files.unknown([key]) else f"blake3:{key.rpartition('/')[2]}"


def _count(result: Copied, key: str, what: str) -> None:
    if what == "damaged":
        result.damaged.append(key)
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


def _batches(keys: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for key in keys:
        batch.append(key)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
