"""The storage seam: what keeps the files of a fleet, and what the rest of the system asks of it.

There are two storages, of outputs (keys `<job id>/<name>`, see `core.job_files`) and of input files (keys
`<two digits>/<hash>`, see `content_key`). Both are folders that every machine sees, or parts of a bucket; another kind
of storage is a class with these methods, chosen in `output_storage` and `input_storage`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core.settings import Settings
from core.storage.folders import LocalStorage
from core.storage.placing import LocalFile, Told

if TYPE_CHECKING:
    from core.storage.direct_uploads import DirectUploads


class StorageBackend(Protocol):
    """Keeps whole files by keys, `<folder>/<name>`: a key names all of a file's bytes, or nothing.

    What is refused by a disk or a network is raised as OSError.
    """

    #: Bringing a file in takes a network: nothing that a GPU waits for.
    is_remote: bool

    @property
    def workplace(self) -> Path:
        """Where files of this machine are made ready to be kept, a job's below `<job id>/`."""

    def draft(self) -> Path:
        """Return a new local path to write a file to that is to be `put`; the caller removes it."""

    def put(self, key: str, file: Path, *, is_needed: bool = False) -> None:
        """Bring a local file in, which leaves its place. One that is there already stays: it has the same bytes.

        Parameters:
          is_needed: nobody removes what is there, for the ledger refers to it.
        """

    def take_over(self, source: object, source_key: str, key: str, *, size_bytes: int, digest: str) -> bool:
        """Bring in a copy of a file of another storage, as `put`, without its bytes coming by here.

        Parameters:
          digest: of the file, `blake3:<64 hex digits>`.
        Returns: whether that could be done; else the caller brings it.
        Raises: FileNotFoundError - there is none, or none of this size.
        """

    def keep(self, files: Sequence[LocalFile]) -> None:
        """Bring in copies of local files of one folder, under keys that are the caller's alone.

        Doing it again does no harm. When it returns, all of them are there.
        """

    def open(self, key: str, *, size_bytes: int) -> RawIOBase:
        """Open a file for reading at any place. Raises FileNotFoundError: there is none, or none of this size."""

    def local(self, key: str) -> AbstractContextManager[Path]:
        """Give a local path to read a file at, for the time of the block. Raises FileNotFoundError."""

    def copy(self, key: str, target: Path, told: Told | None = None) -> None:
        """Copy a file out, whole or not at all. Raises FileNotFoundError.

        Parameters:
          told: hears how far that is, where it takes a network.
        """

    def touch(self, key: str) -> None:
        """Keep a file from being discarded for a while: it is about to be recorded. Raises FileNotFoundError."""

    def discard(self, key: str) -> bool:
        """Remove a file that nobody refers to, unless it was put or touched lately; return whether it went."""

    def keys(self) -> Iterator[str]:
        """Yield the key of every file, in no order."""

    def folders(self) -> Iterator[str]:
        """Yield the first part of every key, once each, in no order."""

    def folder_age_s(self, folder: str) -> float:
        """Return the seconds since a folder was last changed; infinite where there is none."""

    def remove_folder(self, folder: str) -> None:
        """Remove all files of a folder, as far as they can be removed; nothing happens when there are none."""

    def clear_workplace(self, folder: str) -> None:
        """Remove what this machine has made ready of a folder and nobody needs any more."""

    def sweep_drafts(self) -> None:
        """Remove drafts that their makers left behind when they died."""

    def is_due(self, work: str, *, every_s: float) -> bool:
        """Return whether nobody in the fleet has begun a piece of work for so long, and note that it begins now."""

    def link(self, key: str, *, content_type: str, disposition: str, expires_s: int) -> str | None:
        """Return a URL at which anybody may fetch a file for some time; None: there is no such thing."""

    def free_bytes(self) -> int | None:
        """Return how much room is left; None: nobody can tell."""


def output_storage(settings: Settings) -> StorageBackend:
    """Return the storage of finished outputs."""
    return _objects(settings, "outputs") if settings.storage_url else LocalStorage(settings.outputs_dir)


def input_storage(settings: Settings) -> StorageBackend:
    """Return the storage of files that clients brought."""
    return _objects(settings, "inputs") if settings.storage_url else LocalStorage(settings.inputs_dir)


def direct_uploads(settings: Settings) -> DirectUploads | None:
    """Return where clients may send files without us; None: storage is a directory."""
    if not settings.storage_url:
        return None
    # Imported late, as below.
    from core.storage.direct_uploads import DirectUploads

    return DirectUploads(settings)


@lru_cache(maxsize=8)
def _objects(settings: Settings, area: str) -> StorageBackend:
    # Imported late: it loads an HTTP library, which must not happen before gevent has patched the standard library.
    from core.storage.objects import S3Storage

    return S3Storage(settings, area)
