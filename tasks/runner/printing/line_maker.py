"""What was written to a terminal, as lines that may be kept and shown: whole, clean and bounded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

#: Of one line; the rest of it is left out.
LINE_CHARS = 2_000
#: Of one look, which is of one second: more is not read by anybody, and costs as much.
LOOK_LINES = 200
#: Of one job, beside its bytes.
JOB_LINES = 2_000
_CUT = " [...]"
#: A line is known up to here, and what is beyond is left out before it is seen.
_KNOWN_CHARS = 4 * LINE_CHARS
#: The end of what is known of such a line may be the beginning of a secret, of this length at most.
_SECRET_CHARS = 1_000

#: Colours, and whatever else terminals take for orders.
_ORDERS = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class LineMaker:
    """Makes lines of the writes of one job."""

    def __init__(self, discreet: Callable[[str], str]) -> None:
        """Parameters:
        discreet: takes out of a line what its client may not see, such as secrets.
        """
        self._discreet = discreet
        self._begun = ""
        #: The line that was begun goes on, and is known no further.
        self._is_cut = False

    def take(self, writes: Iterable[str]) -> list[str]:
        """Return the lines that these writes end."""
        first, *more = "".join(writes).split("\n")
        self._go_on(first)
        lines = []
        for text in more:
            lines += self.rest()
            self._go_on(text)
        return lines

    def rest(self) -> list[str]:
        """Return what was begun as a line; for the end."""
        line = self._shown()
        self._begun, self._is_cut = "", False
        return [line] if line else []

    def _go_on(self, text: str) -> None:
        if self._is_cut:
            # What comes after a gap may be the rest of a secret, unless the line is drawn anew.
            _, is_new, text = text.rstrip("\r").rpartition("\r")
            if not is_new:
                return
            self._begun, self._is_cut = "", False
        self._begun += text
        if len(self._begun) > _KNOWN_CHARS:
            # A bar that is drawn over itself has its newest state at the end.
            self._begun = self._begun.rpartition("\r")[2]
            self._is_cut = len(self._begun) > _KNOWN_CHARS
            self._begun = self._begun[:_KNOWN_CHARS]

    def _shown(self) -> str:
        # What stands before was drawn over.
        drawn = _ORDERS.sub("", self._begun).rstrip("\r\n ").rpartition("\r")[2]
        clean = "".join(char if char.isprintable() or char == "\t" else " " for char in drawn).rstrip()
        # Before it is cut, which could leave a part of a secret.
        told = self._discreet(clean)
        if self._is_cut:
            return told[: max(0, min(LINE_CHARS, len(told) - _SECRET_CHARS))] + _CUT
        return told if len(told) <= LINE_CHARS else told[:LINE_CHARS] + _CUT
