"""The directory of an instance: one worker holds it, and a second one finds out before it changes anything."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from core.errors import ConfigurationError
from core.machine import boot_id

LOCK_NAME = "worker.lock"


@contextlib.contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Hold an instance's directory for the time of the block.

    Raises:
      ConfigurationError: another worker holds it, or it cannot be written or locked.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not emptied before it is ours: it says who holds it.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigurationError(f"COMFYLINE_DATA_DIR: {path} cannot be written: {exc.strerror}.") from exc
    try:
        _lock(descriptor, path)
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def first_at(path: Path) -> Iterator[str | None]:
    """Hold a lock file for the time of the block if nobody does; yields who does, in words, else None.

    For processes of which there may be several, and an operator should know.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        # Whatever is wrong with the directory is said by those who need it.
        yield None
        return
    try:
        yield None if _is_ours(descriptor) else _holder(descriptor)
    finally:
        os.close(descriptor)


def place_of(folder: Path) -> str:
    """Name a directory of a running machine: equal for two workers only if they come to hold the same directory.

    Other than a host's name or a path, it differs between machines, clones of one, and containers with the same names.
    """
    status = folder.stat()
    return f"{boot_id() or socket.gethostname()} {status.st_dev}:{status.st_ino}"


def _lock(descriptor: int, path: Path) -> None:
    try:
        # A record lock: a pool process that was forked from the holder and outlives it does not hold it.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as exc:
        raise ConfigurationError(
            f"{path.parent.name} is run by another worker already: {_holder(descriptor)} holds {path.parent}. "
            "Stop that one; a second fleet on this machine needs another COMFYLINE_DATA_DIR and COMFYLINE_HOST."
        ) from exc
    except OSError as exc:
        raise ConfigurationError(f"COMFYLINE_DATA_DIR: {path} cannot be locked: {exc.strerror}.") from exc


def _is_ours(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        # A file system without locks cannot tell.
        return True
    _sign(descriptor)
    return True


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {int(record['pid'])} on {record['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that is just starting"
