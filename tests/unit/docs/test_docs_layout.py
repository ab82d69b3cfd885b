"""Documents can be read: short pages, lines of one width, tables whose rows fit, names of files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
#: One stop of the tour: its number, a file, and what to look at there.
STOPS = re.findall(r"^(\d+)\. `([\w/]+\.py)`, `(\w+)`", TOUR, re.MULTILINE)
PACKAGES = ("api", "bench", "cli", "comfy", "core", "deploy", "tasks", "tests", "workflows")
#: Pages that are read as a whole, and how many lines somebody may be asked to read.
LONGEST = {"README.md": 180, "docs/architecture.md": 300}
WIDTH = 120


def prose(document: Path) -> str:
    """The text without blocks of code; lines stay where they are."""
    text = document.read_text(encoding="utf-8")
    return re.sub(r"^ *```.*?^ *```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", LONGEST)
def test_what_is_read_as_a_whole_is_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < LONGEST[name]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_lines_have_one_width(document: Path) -> None:
    lines = enumerate(prose(document).splitlines(), start=1)

    assert [number for number, line in lines if len(line) > WIDTH and not line.startswith("|")] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_rows_of_a_table_have_as_many_cells_as_its_head(document: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", prose(document), re.MULTILINE):
        cells = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
        assert set(cells) == {cells[0]}, table


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_files_that_are_named_exist(document: Path) -> None:
    named = re.findall(rf"`((?:{'|'.join(PACKAGES)})/[\w/]*(?:\.\w+)?)`", prose(document))

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_tour_has_stops_in_order_and_climbs_nowhere_back() -> None:
    files = [file for _, file, _ in STOPS]

    assert [int(number) for number, _, _ in STOPS] == list(range(1, len(STOPS) + 1))
    assert len(STOPS) >= 20
    assert len(set(files)) == len(files)


@pytest.mark.parametrize(("file", "name"), [stop[1:] for stop in STOPS])
def test_what_the_tour_shows_is_there(file: str, name: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")

    assert re.search(rf"^ *(?:async )?(?:def|class) {name}\b|^{name}\b.* = ", source, re.MULTILINE)
