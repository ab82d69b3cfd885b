"""Where each job of a batch stands in a contact sheet: along the sides what was varied, in as many pages as it takes.

Of nothing that was varied, or one thing, cells follow each other in rows, each with its caption; of two they are rows
and columns; of more, the two with most values are, once for each combination of the others. Where few of the
combinations are there, as when lists are taken pair by pair, cells follow each other as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from core.ledger.batches.children import Child

#: On one page.
MAX_CELLS, MAX_COLUMNS, MAX_ROWS = 120, 12, 20
#: Of those that follow each other.
WRAPPED_COLUMNS = 8
#: Where less than this part of all combinations is there, rows and columns would be mostly holes.
LEAST_FILLED = 0.5
_ABSENT = "-"


@dataclass(frozen=True, kw_only=True)
class Band:
    """A row of cells."""

    #: What stands above it, the first of a group.
    heading: str = ""
    #: What stands beside it.
    label: str = ""
    #: In the order of the columns; None: there is no such job.
    cells: tuple[Child | None, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a sheet."""

    #: From 1.
    number: int
    pages: int
    #: Names of what the columns and the rows are; "" where cells follow each other.
    column_name: str = ""
    row_name: str = ""
    #: What stands above the columns; empty where cells have captions.
    columns: tuple[str, ...] = ()
    bands: tuple[Band, ...]
    #: What the captions of cells say, by name.
    captioned: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many cells its longest row has."""
        return max(len(band.cells) for band in self.bands)

    @property
    def children(self) -> list[Child]:
        """The jobs on it."""
        return [child for band in self.bands for child in band.cells if child is not None]


def pages_of(children: Sequence[Child]) -> list[Page]:
    """Return all pages of a batch's sheet; there is one at least. Parameters: children - in order, one at least."""
    values = _values(children)
    varying = [name for name, found in values.items() if len(found) > 1]
    if len(varying) >= 2:
        rows, columns = _sides(varying, values)
        groups = _groups(children, [name for name in varying if name not in (rows, columns)])
        if _fits(groups, rows, columns, values):
            return _grid_pages(groups, rows, columns, values)
    return _wrapped_pages(children, tuple(varying))


def shown(value: Any) -> str:
    """Return a value as it stands on a sheet."""
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else json.dumps(value)


def text_of(child: Child, name: str) -> str:
    """Return what a job has for something that was varied."""
    return shown(child.varied[name]) if name in child.varied else _ABSENT


def _values(children: Iterable[Child]) -> dict[str, list[str]]:
    """Return for each thing that was varied its values, as texts in the order they first come up."""
    names = dict.fromkeys(name for child in children for name in child.varied)
    return {name: list(dict.fromkeys(text_of(child, name) for child in children)) for name in names}


def _sides(varying: list[str], values: dict[str, list[str]]) -> tuple[str, str]:
    """Return what the rows are and what the columns are: of those with most values, the longer one down the page."""
    longest = sorted(varying, key=lambda name: -len(values[name]))[:2]
    if len(varying) > 2 and len(values[longest[0]]) <= WRAPPED_COLUMNS:
        # Groups stand below each other: what is in them goes across, as far as that fits.
        return longest[1], longest[0]
    first, second = sorted(longest, key=varying.index)
    return (second, first) if len(values[second]) > len(values[first]) else (first, second)


def _groups(children: Sequence[Child], others: list[str]) -> dict[str, list[Child]]:
    groups: dict[str, list[Child]] = {}
    for child in children:
        heading = "   ".join(f"{name} = {text_of(child, name)}" for name in others)
        groups.setdefault(heading, []).append(child)
    return groups


def _fits(groups: dict[str, list[Child]], rows: str, columns: str, values: dict[str, list[str]]) -> bool:
    """Whether no two jobs share a cell, and enough cells have one."""
    size = len(values[rows]) * len(values[columns])
    for group in groups.values():
        places = {(text_of(child, rows), text_of(child, columns)) for child in group}
        if len(places) < len(group):
            return False
    return sum(len(group) for group in groups.values()) >= LEAST_FILLED * size * len(groups)


def _grid_pages(groups: dict[str, list[Child]], rows: str, columns: str, values: dict[str, list[str]]) -> list[Page]:
    found: list[tuple[tuple[str, ...], tuple[Band, ...]]] = []
    places = {
        heading: {(text_of(child, rows), text_of(child, columns)): child for child in group}
        for heading, group in groups.items()
    }
    for block in _chunks(values[columns], MAX_COLUMNS):
        bands = []
        for heading, at in places.items():
            bands += [
                Band(heading=heading, label=row, cells=tuple(at.get((row, column)) for column in block))
                for row in values[rows]
            ]
        found += [(tuple(block), _headed(chunk)) for chunk in _chunks(bands, min(MAX_ROWS, MAX_CELLS // len(block)))]
    return [
        Page(number=number, pages=len(found), column_name=columns, row_name=rows, columns=block, bands=bands)
        for number, (block, bands) in enumerate(found, 1)
    ]


def _wrapped_pages(children: Sequence[Child], captioned: tuple[str, ...]) -> list[Page]:
    per_page = MAX_CELLS // WRAPPED_COLUMNS * WRAPPED_COLUMNS
    found = _chunks(children, per_page)
    # As wide as high, more or less, and alike on all pages.
    columns = min(WRAPPED_COLUMNS, math.ceil(math.sqrt(len(found[0]))))
    return [
        Page(
            number=number,
            pages=len(found),
            bands=tuple(Band(cells=tuple(row)) for row in _chunks(chunk, columns)),
            captioned=captioned,
        )
        for number, chunk in enumerate(found, 1)
    ]


def _headed(bands: Sequence[Band]) -> tuple[Band, ...]:
    """Return the rows of a page with their heading above the first of each group alone."""
    others = [
        band if band.heading != before.heading else Band(label=band.label, cells=band.cells)
        for before, band in pairwise(bands)
    ]
    return (bands[0], *others)


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
