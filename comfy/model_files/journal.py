"""Which blocks of a file have been fetched: written beside it, so that a fetch goes on after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def journal_of(part: Path) -> Path:
    """Return where the journal of a part is: beside it."""
    return part.with_suffix(".journal")


class Journal:
    """The fetched blocks of one file. Used by one process at a time, by several of its threads."""

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        """Parameters:
        head: what the blocks are of. A journal with another one is of no use, and begun anew.
        """
        self._head = json.dumps(head, sort_keys=True)
        known = self._read(path)
        self.is_new = known is None
        #: The blocks that were there when it was opened.
        self.done: set[int] = known or set()
        if known is None:
            path.write_text(f"{self._head}\n")
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def note(self, block: int) -> None:
        """Note that a block is in the file."""
        # In one write, at the end of the file: no line of another thread comes between.
        os.write(self._descriptor, f"{block}\n".encode())

    def close(self) -> None:
        os.close(self._descriptor)

    def _read(self, path: Path) -> set[int] | None:
        try:
            head, *lines = path.read_text().split("\n")
        except (OSError, UnicodeDecodeError):
            return None
        # A last line without its end is half of one, and the next would be taken for the other half.
        if head != self._head or not lines or lines[-1]:
            return None
        return {int(line) for line in lines if line.isdecimal()}
