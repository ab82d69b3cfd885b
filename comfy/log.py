"""The log file of one instance: rotated at each start, its tail quoted when a start fails."""

from __future__ import annotations

from pathlib import Path
from typing import IO

#: Beyond this a log moves to `<name>.1` at the next start, in place of the one before.
ROTATE_SIZE_BYTES = 10 * 1024 * 1024
TAIL_SIZE_BYTES = 4096
TAIL_LINES = 20


def open_log(path: Path) -> IO[bytes]:
    """Open for appending; a log that grew too large is put aside first."""
    if path.exists() and path.stat().st_size > ROTATE_SIZE_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
    return path.open("ab")


def tail(path: Path, since_bytes: int) -> str:
    """The last lines that were written after the first `since_bytes` bytes; empty if there are none."""
    try:
        with path.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(since_bytes, end - TAIL_SIZE_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-TAIL_LINES:])
