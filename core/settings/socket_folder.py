"""A private directory with a short name, for the broker's socket where the path of the data directory is too long.

Its name cannot be foreseen, and stands in the data directory: nobody else can have put a socket there for us.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

#: In the data directory: holds the path of the directory.
RECORD = "broker.folder"


def socket_folder(data_dir: Path) -> Path | None:
    """Return the directory that was made for this data directory; None if there is none, or it is not ours alone."""
    try:
        folder = Path((data_dir / RECORD).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return None
    return folder if folder.is_absolute() and _is_private(folder) else None


def make_socket_folder(data_dir: Path) -> Path:
    """Make one, or keep the one there is. For the broker alone, which holds the data directory. Raises OSError."""
    if (known := socket_folder(data_dir)) is not None:
        return known
    folder = _made_again(data_dir) or Path(tempfile.mkdtemp(prefix="comfyline-"))
    draft = data_dir / f"{RECORD}.new"
    draft.write_text(f"{folder}\n", encoding="utf-8")
    draft.replace(data_dir / RECORD)
    return folder


def _made_again(data_dir: Path) -> Path | None:
    """Return the directory by its old name, for processes that still know that: temporary directories are swept."""
    try:
        folder = Path((data_dir / RECORD).read_text(encoding="utf-8").strip())
        folder.mkdir(mode=0o700)
    except (OSError, UnicodeDecodeError, ValueError):
        # Never made, or somebody else has the name now.
        return None
    return folder


def _is_private(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
