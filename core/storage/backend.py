"""The storage seam: what keeps the files of a fleet, and what the rest of the system asks of it.

There are two storages, of outputs (keys `<job id>/<name>`, see `core.job_files`) and of input files (keys
`<two digits>/<hash>`, see `content_key`). Both are folders that every machine sees; another kind of storage is a class
with these methods, chosen in `output_storage` and `input_storage`.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Protocol

from core.settings import Settings
from core.storage.folders import LocalStorage


class StorageBackend(Protocol):
    """Keeps whole files by keys, `<folder>/<name>`: a key names all of a file's bytes, or nothing.

    What is refused by a disk or a network is raised as OSError.
    """

    def draft(self) -> Path:
        """Return a new local path to write a file to that is to be `put`; the caller removes it."""

    def put(self, key: str, file: Path) -> None:
        """Bring a local file in, which leaves its place. One that is there already stays: it has the same bytes."""

    def open(self, key: str, *, size_bytes: int) -> FileIO:
        """Open a file for reading at any place. Raises FileNotFoundError: there is none, or none of this size."""

    def path(self, key: str) -> Path:
        """Return a local path to read a file at. Raises FileNotFoundError."""

    def copy(self, key: str, target: Path) -> None:
        """Copy a file out, whole or not at all. Raises FileNotFoundError."""

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

    def sweep_drafts(self) -> None:
        """Remove drafts that their makers left behind when they died."""

    def free_bytes(self) -> int:
        """Return how much room is left."""


def output_storage(settings: Settings) -> StorageBackend:
    """Return the storage of finished outputs."""
    return LocalStorage(settings.outputs_dir)


def input_storage(settings: Settings) -> StorageBackend:
    """Return the storage of files that clients brought."""
    return LocalStorage(settings.inputs_dir)
