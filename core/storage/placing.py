"""How a job's files come to their places: where they really are, the names they are stored under, their hashes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from core.errors import OutputUnavailable

CHUNK_BYTES = 1024 * 1024

#: Hears how many bytes have come, of how many; must not take long.
Told = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file of this machine that is to be brought into storage."""

    key: str
    path: Path
    #: `blake3:<64 hex digits>`.
    digest: str
    content_type: str


def real_file(root: Path, source: Path) -> Path:
    """Return where a file really is that an instance reported to be below `root`.

    Raises:
      OutputUnavailable: it is not there, or not below `root`.
      OSError: the disk cannot be read.
    """
    try:
        real = source.resolve()
        if not real.is_relative_to(root.resolve()):
            raise OutputUnavailable("it lies outside of ComfyUI's folders, or its name says so.")
        if real.is_file():
            return real
    except (ValueError, RuntimeError) as exc:
        raise OutputUnavailable("that cannot be the name of a file.") from exc
    except OSError as exc:
        if exc.errno not in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
            raise
        raise OutputUnavailable("that cannot be the name of a file.") from exc
    raise OutputUnavailable("it is not there.")


def place_new(file: Path, target: Path) -> None:
    """Give a file its place besides the one it has, whole or not at all, and only if nothing is there.

    Raises:
      FileExistsError: something is there already; it stays as it is.
      OSError: neither file system links, or there is no room.
    """
    try:
        os.link(file, target)
    except FileExistsError:
        raise
    except OSError:
        # Another file system: a copy, which is given its name when it is whole.
        draft = target.with_name(f".{target.name}.new.part")
        try:
            shutil.copyfile(file, draft)
            os.link(draft, target)
        finally:
            draft.unlink(missing_ok=True)


def digest_of(path: Path) -> str:
    """Return the hash of a file, `blake3:<64 hex digits>`."""
    digest = blake3()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f"blake3:{digest.hexdigest()}"


def free_name(name: str, taken: set[str]) -> str:
    """Return the name, or `name (2).ext` when another output of the job has it: nothing is ever written over."""
    name = os.path.basename(name).lstrip(".") or "output"  # noqa: PTH119 - a string, not a path of this machine
    stem, extension = os.path.splitext(name)  # noqa: PTH122
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{stem} ({number}){extension}"
    taken.add(candidate)
    return candidate
