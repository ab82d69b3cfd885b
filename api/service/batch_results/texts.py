"""Texts of a contact sheet: fonts, and lines that fit into a width."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from PIL import ImageFont

#: Families that know more scripts than the one that Pillow brings, as machines may have them; the first one counts.
_FURTHER = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf")
#: What Pillow's own font has is printable ASCII and little more.
_LAST_PLAIN = "~"
#: Longest text that is laid out; nobody reads more on a sheet.
MAX_CHARS = 600
_ELLIPSIS = "..."

Font = ImageFont.FreeTypeFont


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a text, and what it is drawn in."""

    text: str
    font: Font


@lru_cache(maxsize=32)
def font(size_px: int, *, is_plain: bool = True) -> Font:
    """Return a font of a size: Pillow's own, and for other scripts one of the machine's where it has any."""
    for name in () if is_plain else _FURTHER:
        try:
            return ImageFont.truetype(name, size_px)
        except OSError:
            continue
    found = ImageFont.load_default(size_px)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


def font_for(text: str, size_px: int) -> Font:
    """Return the font to draw a text in."""
    return font(size_px, is_plain=max(text, default="") <= _LAST_PLAIN)


def lines_of(text: str, width_px: float, size_px: int, *, most: int) -> list[Line]:
    """Return a text as lines that fit; what goes beyond the last one is left out, and three dots say so.

    Words that are too long for a line are broken. White space and what controls text become blanks.
    """
    clean = _clean(text)
    using = font_for(clean, size_px)
    lines: list[str] = []
    line = ""
    for word in re.findall(r"\S+", clean):
        longer = f"{line} {word}" if line else word
        if using.getlength(longer) <= width_px:
            line = longer
            continue
        if line:
            lines.append(line)
        while using.getlength(word) > width_px and len(word) > 1:
            cut = _fitting(word, width_px, using)
            lines.append(word[:cut])
            word = word[cut:]
        line = word
        if len(lines) > most:
            break
    lines = [*lines, line] if line else lines
    if len(lines) > most:
        lines = [*lines[: most - 1], _shortened(lines[most - 1], width_px, using)]
    return [Line(text=each, font=using) for each in lines]


def width_of(text: str, size_px: int) -> float:
    """Return how wide a text is in one line, in pixels."""
    clean = _clean(text)
    return font_for(clean, size_px).getlength(clean)


def line_height(size_px: int) -> int:
    """Return the distance of two lines, in pixels."""
    return round(size_px * 1.3)


def _clean(text: str) -> str:
    cut = text[:MAX_CHARS]
    return "".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in cut).strip()


def _fitting(word: str, width_px: float, using: Font) -> int:
    """Return how many characters of a word fit; one at least."""
    low, high = 1, len(word)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if using.getlength(word[:middle]) <= width_px else (low, middle - 1)
    return low


def _shortened(line: str, width_px: float, using: Font) -> str:
    while line and using.getlength(line + _ELLIPSIS) > width_px:
        line = line[:-1]
    return line.rstrip() + _ELLIPSIS
