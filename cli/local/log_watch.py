"""What of the processes' logs people should see at once: warnings and worse, as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from core.log_format import plain_line

#: Our own processes' lines for people, and the levels of Python's and Celery's logs near the start of a line.
WORTH_SEEING = re.compile(r"^comfyline: |^.{0,60}\b(WARNING|ERROR|CRITICAL)\b")
READ_BYTES = 64 * 1024


class LogWatch:
    """Reads what is appended to the logs of some processes from its making on."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._paths = {name: folder / f"{name}.log" for name in names}
        self._offsets = {name: _size(path) for name, path in self._paths.items()}

    def news(self) -> Iterator[tuple[str, str]]:
        """New lines worth seeing, as (process, line)."""
        for name, path in self._paths.items():
            for line in map(plain_line, self._appended(name, path)):
                if WORTH_SEEING.search(line):
                    yield name, line

    def _appended(self, name: str, path: Path) -> list[str]:
        size = _size(path)
        if size == self._offsets[name]:
            return []
        if size < self._offsets[name]:  # It was set aside for a new one.
            self._offsets[name] = 0
        try:
            with path.open("rb") as file:
                file.seek(self._offsets[name])
                # A line that is not yet whole is left for the next look.
                whole, newline, _ = file.read(READ_BYTES).rpartition(b"\n")
        except OSError:
            # Somebody removed it, which is no reason to end what runs.
            return []
        self._offsets[name] += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
