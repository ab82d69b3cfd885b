"""What the documentation shows and points at holds: examples, links, and the tests it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.records.job import TRANSITIONS
from core.texts.strict_json import loads
from tests.paths import ROOT
from workflows.graphs.graph import Graph, parse_graph

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
#: A file of tests, in whatever folder, and one of its tests, which may belong to a class.
NAMED_TEST = re.compile(r"`(?:tests/)?((?:unit|integration|faults|chaos)/(?:\w+/)*test_\w+\.py)(?:::(?:\w+::)?(\w+))?`")
#: Under these names a graph stands in a request.
GRAPH_FIELDS = ("workflow", "workflow_json")


def blocks(language: str) -> list[Any]:
    """Every fenced block of a language, named by its document and line."""
    found_blocks = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, found.start()) + 1
            found_blocks.append(pytest.param(found[1], id=f"{document.name}:{line}"))
    return found_blocks


def graphs(value: Any) -> Iterator[Any]:
    """The graphs in an example: the value itself, or what stands in it where requests have theirs."""
    if not isinstance(value, dict):
        return
    if value and all(isinstance(node, dict) and "class_type" in node and "inputs" in node for node in value.values()):
        yield value
    for name, inner in value.items():
        if name in GRAPH_FIELDS:
            yield inner
        else:
            yield from graphs(inner)


def links_lead_somewhere(graph: Graph) -> bool:
    """Whether every link names a node of the graph."""
    values = [value for node in graph.values() for value in node["inputs"].values()]
    return all(value[0] in graph for value in values if isinstance(value, list))


def anchors(document: Path) -> set[str]:
    """The anchors that a document's headings get: small letters, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("text", blocks("json"))
def test_json_is_what_our_own_reader_accepts(text: str) -> None:
    for graph in graphs(loads(text.encode())):
        assert links_lead_somewhere(parse_graph(graph))


def test_there_are_graphs_among_the_examples() -> None:
    found = [graph for block in blocks("json") for graph in graphs(loads(block.values[0].encode()))]

    assert len(found) >= 3


@pytest.mark.parametrize("text", blocks("python"))
def test_python_compiles(text: str) -> None:
    compile(text, "example", "exec")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    # Code may hold what looks like a link.
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        wanted = (document.parent / path).resolve() if path else document
        assert wanted.exists(), target
        if anchor:
            assert anchor in anchors(wanted), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_tests_that_are_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for path, name in NAMED_TEST.findall(text):
        module = ROOT / "tests" / path
        assert module.is_file(), path
        if name:
            assert re.search(rf"^ *def {name}\(", module.read_text(encoding="utf-8"), re.MULTILINE), f"{path}::{name}"


def test_each_fault_names_its_test() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!fault|what|variable|---|`COMFYLINE_)(.+) \|$", text, re.MULTILINE)

    assert len(rows) > 100
    assert [row for row in rows if not NAMED_TEST.search(row) and not re.search(r"\| none\b", row)] == []


def test_the_table_of_statuses_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("\n### Statuses\n")[2].partition("\n#")[0]

    listed = {}
    for before, after in re.findall(r"^\| (`.+?) \| (.+) \|$", table, re.MULTILINE):
        for status in re.findall(r"`(\w+)`", before):
            listed[status] = set(re.findall(r"`(\w+)`", after))
    assert listed == TRANSITIONS
