"""The log file of one instance: rotated at each start and while it runs, its tail quoted when a start fails."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

#: Beyond this a log is copied to `<name>.1` and emptied; the `.1` before becomes `.2`, and that one is forgotten.
ROTATE_SIZE_BYTES = 10 * 1024 * 1024
#: Of a log that grew faster than it was looked at, only the end is copied.
COPY_SIZE_BYTES = 4 * ROTATE_SIZE_BYTES
TAIL_SIZE_BYTES = 4096
TAIL_LINES = 20


def open_log(path: Path) -> IO[bytes]:
    """Open for appending; a log that grew too large is put aside first."""
    rotate(path)
    return path.open("ab")


def rotate(path: Path) -> bool:
    """Put a log that grew too large aside, also while a process writes to it; whether it was.

    The process holds the file open, and would follow it to another name; so it is copied, and emptied in place. That
    works because it was opened for appending: each write goes to the end, wherever that is by then. What is written
    between the last look of the copy and the emptying is lost, at most a few lines.
    Raises:
      OSError: the file cannot be read or emptied.
    """
    try:
        if path.stat().st_size <= ROTATE_SIZE_BYTES:
            return False
        with path.open("r+b") as file:
            _copy(file, path)
            file.truncate(0)
    except FileNotFoundError:
        return False
    return True


def tail(path: Path, since_bytes: int) -> str:
    """Return the last lines that were written after the first `since_bytes` bytes; empty if there are none.

    A log shorter than that was emptied meanwhile, so that all of it was written since.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            since_bytes = since_bytes if since_bytes <= end else 0
            file.seek(max(since_bytes, end - TAIL_SIZE_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def _copy(file: IO[bytes], path: Path) -> None:
    older, oldest = path.with_name(f"{path.name}.1"), path.with_name(f"{path.name}.2")
    draft = path.with_name(f"{path.name}.new")
    file.seek(max(0, file.seek(0, 2) - COPY_SIZE_BYTES))
    try:
        with draft.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        if older.exists():
            older.replace(oldest)
        draft.replace(older)
    except OSError as exc:
        # A full disk is the case in which the log has to give way.
        log.warning("%s is emptied without a copy: %s", path, exc)
        with contextlib.suppress(OSError):
            draft.unlink()
