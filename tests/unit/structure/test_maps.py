"""The docstring of a package is its map: it names each module and folder in it, and nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGES = ("api", "cli", "comfy", "core", "tasks", "workflows")
FOLDERS = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for package in PACKAGES
    for path in (ROOT / package).rglob("__init__.py")
    # Migrations are found by their numbers.
    if path.parent.name != "versions"
)
#: A line of a map: `name   what it is for`, a folder with a slash.
ENTRY = re.compile(r"^([a-z_0-9]+/?) {2,}\S", re.MULTILINE)


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_package_names_its_modules(folder: str) -> None:
    path = ROOT / folder
    modules = {module.stem for module in path.glob("*.py") if module.name != "__init__.py"}
    rooms = {f"{room.parent.name}/" for room in path.glob("*/__init__.py")}

    named = ENTRY.findall(_docstring(path / "__init__.py"))

    assert sorted(named) == sorted(modules | rooms)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_map_begins_with_what_the_room_is_for(folder: str) -> None:
    first, _, _ = _docstring(ROOT / folder / "__init__.py").partition("\n")

    assert first.endswith((".", ":"))
