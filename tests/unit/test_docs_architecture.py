"""docs/architecture.md names every module, in the words of the module itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FOLDERS = ("core", "core/ledger", "core/outbound", "core/webhooks", "workflows", "comfy", "tasks", "api", "cli")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_has_its_row(folder: str) -> None:
    table = TEXT.partition(f"\n`{folder}/`\n")[2].partition("\n`")[0]
    rows = dict(re.findall(r"^\| `([a-z_0-9]+\.py)` \| (.*) \|$", table, re.MULTILINE))

    modules = [path for path in sorted((ROOT / folder).glob("*.py")) if path.name != "__init__.py"]
    assert rows == {path.name: _first_words(path) for path in modules}


def _first_words(path: Path) -> str:
    """The first paragraph of a module's docstring, in one line, without the full stop."""
    words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(words.partition("\n\n")[0].split()).rstrip(".")
