"""Files an instance leaves behind: removed when they are old or their job is over, and the room that is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from core.storage.job_files import RUN_FOLDERS, job_folder

#: Directories that lie deeper inside each other are left alone: each level takes a file descriptor.
DEEPEST = 64
#: The descriptor is of this very directory: what was put in its place meanwhile, or is a link, is not opened.
_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_old_files(data_dir: Path, *, older_than_s: float, spare: Collection[str] = ()) -> int:
    """Remove files of an instance that nobody changed for so long, and directories left empty; how many files went.

    Only regular files below output/, input/ and temp/. Links are neither followed nor removed, and a root that is one
    is left alone. A new directory stays although it is empty: ComfyUI may be about to write into it. What vanishes
    meanwhile, or cannot be removed, is passed over.

    Parameters:
      spare: names directly below the three directories that stay, with all that is in them.
    """
    before_s = time.time() - older_than_s
    removed = 0
    for root in RUN_FOLDERS:
        with _opened(str(data_dir / root)) as directory:
            removed += 0 if directory is None else _remove_old(directory, before_s, spare)
    return removed


def remove_job_files(data_dir: Path, job_id: str) -> None:
    """Remove `output/<job_id>/`, `input/<job_id>/` and `temp/<job_id>/` whole; nothing if they are not there.

    Raises:
      ValueError: the job id cannot be the name of a folder; ours always can.
    """
    folders = [job_folder(data_dir / root, job_id) for root in RUN_FOLDERS]
    for folder in folders:
        if not folder.parent.is_symlink():
            # It goes into no links, and refuses a folder that is one itself.
            shutil.rmtree(folder, ignore_errors=True)


def free_bytes(path: Path) -> int:
    """Free space, for users without privileges, on the disk of `path`, or of its nearest parent that exists.

    Raises:
      OSError: the file system does not say.
    """
    path = path.absolute()
    for candidate in (path, *path.parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return shutil.disk_usage(candidate).free
    raise FileNotFoundError(path)


@contextlib.contextmanager
def _opened(name: str, parent: int | None = None) -> Iterator[int | None]:
    """A descriptor of a directory, None if it is gone, no directory, or a link."""
    try:
        descriptor = os.open(name, _OPEN_FLAGS, dir_fd=parent)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _names(directory: int) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _remove_old(directory: int, before_s: float, spare: Collection[str] = (), depth: int = 1) -> int:
    """Remove old files below one open directory, but not the directory itself."""
    removed = 0
    for name in set(_names(directory)).difference(spare):
        with contextlib.suppress(OSError):  # Gone meanwhile, or not ours to remove.
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            is_old = status.st_mtime < before_s
            if stat.S_ISDIR(status.st_mode) and depth < DEEPEST:
                with _opened(name, directory) as child:
                    removed += 0 if child is None else _remove_old(child, before_s, depth=depth + 1)
                if is_old:
                    os.rmdir(name, dir_fd=directory)  # Fails if something is left in it, as it should.
            elif is_old and stat.S_ISREG(status.st_mode):
                os.unlink(name, dir_fd=directory)
                removed += 1
    return removed
