"""Files that client commands write: whole or not at all, inside their folder, and new ones never over others."""

from __future__ import annotations

import itertools
import json
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from cli.remote.answers import Job
from core.errors import ConfigurationError


def safe_name(name: str) -> str:
    """Return a server's file name, safe to write here: no folder, no leading dot, no odd characters."""
    return re.sub(r"[^\w.\-]+", "_", name.replace("\\", "/").rpartition("/")[2]).lstrip(".") or "output"


def is_file(path: Path) -> bool:
    """Return whether there is such a file; false too for what is too long for a name, or lies where we may not look."""
    try:
        return path.is_file()
    except OSError:
        return False


class Draft:
    """A file under a passing name until it is whole. A context manager: what was not kept is removed.

    Every method raises `ConfigurationError` when the disk or the folder refuses.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f".{uuid.uuid4().hex}.part"
        self._file: BinaryIO | None = None

    def __enter__(self) -> Draft:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
        except OSError as exc:
            raise ConfigurationError(
                f"No file can be made in {self._folder}: {exc.strerror}. Name another place with --output."
            ) from exc
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            # A full disk has been told of by then.
            with suppress(OSError):
                self._file.close()
            self._path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        assert self._file is not None
        with _explained(self._folder):
            self._file.write(data)

    def empty(self) -> None:
        """Drop what was written so far."""
        assert self._file is not None
        with _explained(self._folder):
            self._file.seek(0)
            self._file.truncate()

    def keep_as(self, name: str) -> Path:
        """Give it its name, in place of a file that had it; returns the file's path."""
        self._finish()
        path = self._folder / name
        with _explained(path):
            return self._path.replace(path)

    def keep_beside(self, name: str) -> Path:
        """Give it its name, or `name (2).ext` and so on where others have that; returns the file's path."""
        self._finish()
        names = numbered_names(name)
        while True:
            path = self._folder / next(names)
            with _explained(path):
                try:
                    # Taken before it is filled: another command may save a file of this name at this moment.
                    path.open("xb").close()
                except FileExistsError:
                    continue
                return self._path.replace(path)

    def _finish(self) -> None:
        # What is still in the buffer may be what no longer fits on the disk.
        assert self._file is not None
        with _explained(self._folder):
            self._file.close()


@contextmanager
def result_file(path: Path) -> Iterator[Callable[[Any], None]]:
    """Yield a function that writes a value to the file, as JSON.

    The place is tried before there is a value: an answer that cannot be had twice must not be lost for want of it.
    Raises: ConfigurationError - nothing can be written there.
    """
    with _explained(path):
        if path.is_dir():
            raise ConfigurationError(f"--output {path} is a folder; name a JSON file for the answer.")
        is_special = path.exists() and not path.is_file()
    if is_special:
        # A device or a pipe, /dev/null for instance, is written to and never replaced.
        def pour(value: Any) -> None:
            with _explained(path):
                path.write_bytes(_json(value))

        yield pour
        return
    target = path.resolve()
    with Draft(target.parent) as draft:

        def write(value: Any) -> None:
            draft.write(_json(value))
            draft.keep_as(target.name)

        yield write


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def numbered_names(name: str) -> Iterator[Path]:
    """`a.png`, `a (2).png`, `a (3).png`, ..."""
    path = Path(name)
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem} ({number}){path.suffix}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror}.") from exc


def file_names(job: Job) -> list[str]:
    """A name for each output of a job, safe to write here, and no two the same."""
    names: list[str] = []
    for output in job.get("outputs") or []:
        numbered = numbered_names(safe_name(str(output["name"])))
        names.append(next(str(name) for name in numbered if str(name) not in names))
    return names
