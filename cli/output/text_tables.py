"""Tables on a terminal of any width: ids and states stand there whole, and columns that do not fit are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

GAP = 2
#: A column whose cells may be cut is left out where less than this is left for it, in characters.
LEAST = 12

Row = Sequence[str]


@dataclass(frozen=True)
class Heading:
    """A column: its title, and what becomes of it where a terminal is too narrow for all of them."""

    title: str
    #: 0: it is always there, and whole. Else the columns with the highest numbers are left out first.
    gives_way: int = 0
    #: Whether the ends of its cells may be missing.
    is_cut: bool = False


def printable(text: object) -> str:
    """Text from elsewhere without control characters, which could rewrite the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in str(text))


def print_table(
    console: Console,
    headings: Sequence[Heading],
    rows: Sequence[Row],
    *,
    style: Callable[[Row], str] = lambda _row: "",
    note: Callable[[Row], str] = lambda _row: "",
) -> None:
    """Print rows as a table. What is wider than the terminal even so goes on in its next line, as all text does.

    Parameters:
      rows: cells in the order of the headings.
      note: what stands in a line of its own below a row, such as a reason.
    """
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in ([each.title for each in headings], *rows)]
    widths = [max(cell_len(row[at]) for row in cells) for at in range(len(headings))]
    least = [min(width, LEAST) if heading.is_cut else width for heading, width in zip(headings, widths, strict=True)]
    shown = _shown(headings, least, console.width)
    spare = console.width - sum(least[at] + GAP for at in shown) + GAP
    for at in shown:
        more = max(0, min(spare, widths[at] - least[at]))
        least[at], spare = least[at] + more, spare - more
    for number, row in enumerate(cells):
        line = Text((" " * GAP).join(_fitted(row[at], least[at]) for at in shown).rstrip())
        console.print(line, style="bold" if number == 0 else style(rows[number - 1]), soft_wrap=True)
        if number > 0 and (words := printable(note(rows[number - 1]))):
            console.print(Text(f"  {words}"), style="dim", soft_wrap=True)


def _fitted(cell: str, width: int) -> str:
    text = Text(cell)
    text.truncate(width, overflow="ellipsis", pad=True)
    return text.plain


def _shown(headings: Sequence[Heading], widths: Sequence[int], room: int) -> list[int]:
    """Return which columns there is room for."""
    shown = list(range(len(headings)))
    while sum(widths[at] + GAP for at in shown) - GAP > room:
        last = max(shown, key=lambda at: headings[at].gives_way)
        if headings[last].gives_way == 0:
            break
        shown.remove(last)
    return shown
