"""A line for each thing that was looked at: a mark, what it is, and what there is to say of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TextIO

from cli.output.text_tables import printable

MARKS: Final[Mapping[str, str]] = {"ok": "✓", "advice": "!", "wrong": "✗", "unknown": "-"}
#: Where a stream cannot have the former, in a log with LANG=C for instance.
PLAIN_MARKS: Final[Mapping[str, str]] = {**MARKS, "ok": "ok", "wrong": "WRONG"}
STYLES: Final[Mapping[str, str]] = {"ok": "", "advice": "yellow", "wrong": "red", "unknown": "dim"}
#: As wide as the longest subject, `data directory`.
WIDTH = 14


def finding_line(subject: str, mark: str, text: str, *, stream: TextIO) -> str:
    """Return one line.

    Parameters:
      mark: a key of `MARKS`.
      stream: where it is to be written.
    """
    sign = MARKS[mark]
    try:
        sign.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        sign = PLAIN_MARKS[mark]
    return f"{sign} {subject:{WIDTH}} {' '.join(printable(text).split())}"
