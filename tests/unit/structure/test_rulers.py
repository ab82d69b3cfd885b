"""Measures of the code: sizes of modules and folders, names that are used once, rooms without circles between them."""

from __future__ import annotations

import ast
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGES = ("api", "bench", "cli", "comfy", "core", "tasks", "workflows")
MAX_LINES = 400
MEDIAN_LINES = 100
MODULES_IN_A_FOLDER = 14
MAX_NAMESAKES = 2
#: Of all functions, in percent, those that return `dict[str, Any]`.
UNTYPED_ANSWERS = 3.0


def _modules() -> dict[str, Path]:
    """Every module by its dotted name; a package by its own."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = _modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
PLAIN = {name: path for name, path in MODULES.items() if path.name != "__init__.py"}


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def _circle(arrows: dict[str, set[str]]) -> list[str]:
    """Return what is left of a graph when beginnings and ends are taken away until there are none: its circles."""
    left = {name: set(targets) - {name} for name, targets in arrows.items()}
    while True:
        entered = set().union(*left.values())
        open_ended = [name for name, targets in left.items() if name not in entered or not targets & left.keys()]
        if not open_ended:
            return sorted(left)
        left = {name: targets for name, targets in left.items() if name not in open_ended}


def test_no_module_is_long() -> None:
    sizes = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}

    assert {name for name, size in sizes.items() if size > MAX_LINES} == set()
    assert statistics.median(filter(None, sizes.values())) <= MEDIAN_LINES


def test_folders_have_about_a_dozen_modules() -> None:
    sizes = Counter(path.parent for path in PLAIN.values())
    largest = {
        package: max(n for folder, n in sizes.items() if folder.is_relative_to(ROOT / package)) for package in PACKAGES
    }

    assert statistics.median(largest.values()) <= MODULES_IN_A_FOLDER, largest


def test_no_module_name_is_used_thrice() -> None:
    names = Counter(path.stem for path in PLAIN.values())

    assert {name: count for name, count in names.items() if count > MAX_NAMESAKES} == {}


def test_few_functions_return_a_dict_of_anything() -> None:
    functions = [
        node
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    untyped = [node for node in functions if node.returns is not None and ast.unparse(node.returns) == "dict[str, Any]"]

    assert 100 * len(untyped) / len(functions) <= UNTYPED_ANSWERS


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert _circle({name: set(imports(tree)) for name, tree in TREES.items()}) == []


@pytest.mark.parametrize("package", sorted({name.rpartition(".")[0] for name in PLAIN if "." in name}))
def test_rooms_of_a_package_have_no_circle(package: str) -> None:
    """A package's modules and folders, each folder taken as one."""

    def member(name: str) -> str | None:
        rest = name.removeprefix(f"{package}.")
        return None if rest == name else rest.partition(".")[0]

    arrows: dict[str, set[str]] = {}
    for name, tree in TREES.items():
        if (source := member(name)) is not None:
            arrows.setdefault(source, set()).update(filter(None, map(member, imports(tree))))

    assert _circle(arrows) == []


def test_each_module_logs_by_the_name_of_log() -> None:
    loggers = {
        (name, ast.unparse(node.targets[0]))
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("logging.getLogger(")
    }

    assert {target for _name, target in loggers} == {"log"}
