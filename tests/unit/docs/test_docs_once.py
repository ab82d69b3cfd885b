"""Documents say each thing once: merges of two versions of a paragraph leave both behind, and readers with neither."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
#: Shorter lines may well be the same.
LONG_CHARS = 45


def blocks(text: str) -> Iterator[list[str]]:
    """Runs of lines without an empty line in between, code left out."""
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in re.split(r"\n\s*\n", prose):
        yield block.splitlines()


def twice(found: Iterator[str]) -> list[str]:
    return [each for each, count in Counter(found).items() if count > 1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_table_and_no_list_has_an_entry_twice(path: Path) -> None:
    for lines in blocks(path.read_text(encoding="utf-8")):
        rows = [re.match(r"\| (?:(.+?) \||-+ )", line) for line in lines]
        assert twice(row[1] for row in rows if row and row[1]) == []
        assert twice(term for line in lines for term in re.findall(r"^- ((?:`[^`]+`(?:, )?)+):", line)) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_line_of_prose_stands_there_twice(path: Path) -> None:
    lines = (line for lines in blocks(path.read_text(encoding="utf-8")) for line in lines)
    assert twice(line for line in lines if len(line) > LONG_CHARS and not line.startswith("|")) == []
