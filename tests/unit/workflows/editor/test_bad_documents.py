"""Documents that are broken or far too large: refused in bounded time, with the node and the reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from core.errors import EditorWorkflow
from tests.editor.writer import CATALOGUE, Json, Writer, port
from workflows.editor.convert import convert
from workflows.graphs.graph import parse_graph


def document(nodes: Any, links: Any = (), **more: Any) -> Json:
    return {"nodes": nodes, "links": list(links) if isinstance(links, tuple) else links, **more}


def node(**more: Any) -> Json:
    return {"id": 1, "type": "Make", "mode": 0, **more}


SLOT = {"name": "images", "type": "IMAGE"}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (document([1]), "a node has no id or no type"),
        (document([{"id": None, "type": "A"}]), "a node has no id or no type"),
        (document([{"id": 1, "type": None}]), "a node has no id or no type"),
        (document([node(), node()]), "Node 1 (Make): another node has the same id"),
        (document([node(widgets_values=3)]), "its widgets_values are neither a list nor an object"),
        (document([node(inputs=[1])]), "one of its inputs or outputs is no object"),
        (document([node(inputs={"a": 1})]), "its inputs are no list"),
        (document([node(inputs=[{"name": "x", "link": "7"}])]), "the link of its input 'x' is no number"),
        (document([node(inputs=[{"name": "x", "link": 7}])]), "its input 'x' has link 7, which is not there"),
        (document([node()], [[1, 2]]), "a link is broken: [1, 2]"),
        (document([node()], [[1, 2, "0", 3, 0, "IMAGE"]]), "a link is broken"),
        (document([node()], 5), "its links are no list"),
        (document([node(inputs=[{**SLOT, "link": 5}])], [[5, 9, 0, 1, 0, "IMAGE"]]), "is linked to node 9, which is"),
        (document([node()], definitions={"subgraphs": [1]}), "its subgraphs are no list of objects"),
        (document([node()], definitions={"subgraphs": [{"nodes": []}]}), "a subgraph has no id"),
        (document([node(inputs=[SLOT] * 1001)]), "it has more than 1000 inputs or outputs"),
        (document([node()] * 10_001), "it has 10001 nodes, at most 10000 are read"),
        (document([node()], [None] * 200_001), "it has more than 200000 links"),
    ],
)
def test_broken_documents_are_refused(value: Json, says: str) -> None:
    with pytest.raises(EditorWorkflow) as caught:
        convert(value, CATALOGUE)

    assert says in caught.value.message
    assert len(caught.value.message) < 1500


def test_links_that_no_input_has_are_dropped() -> None:
    writer = Writer()
    writer.root.of_class("Count", {"value": 1})
    links = [[8, 99, 0, 98, 0, "X"], [9, 1, 0, 98, 0, "X"], [10, 99, 0, 1, 0, "X"], [11, 1, 0, 1, 44, "X"], None]

    assert convert({**writer.document(), "links": links}, CATALOGUE)["1"]["inputs"] == {"value": 1}


def test_a_link_that_only_the_list_of_links_has_counts() -> None:
    writer = Writer()
    writer.root.of_class("Count", {"value": 1})
    writer.root.node("Make", values=[3, "fixed", "", "a"])

    # mask, seed, ...: the places of inputs in the editor, sockets first.
    graph = convert({**writer.document(), "links": [[9, 1, 0, 2, 1, "INT"]]}, CATALOGUE)
    assert graph["2"]["inputs"] == {"seed": ["1", 0], "text": "", "kind": "a"}


def test_too_many_nodes_that_run_are_refused() -> None:
    writer = Writer()
    for _ in range(2001):
        writer.root.of_class("Count", {"value": 1})

    with pytest.raises(EditorWorkflow, match="2001 of its nodes run, at most 2000 are accepted"):
        convert(writer.document(), CATALOGUE)


def doubling() -> Writer:
    """Thirty subgraphs, each with two of the next: a thousand million nodes."""
    writer = Writer()
    for number in range(30):
        sheet = writer.subgraph(f"s{number}")
        for _ in range(2):
            sheet.node(f"s{number + 1}" if number < 29 else "Note")
    writer.root.node("s0")
    return writer


def deep() -> Writer:
    writer = Writer()
    for number in range(1500):
        writer.subgraph(f"s{number}").node(f"s{number + 1}" if number < 1499 else "Note")
    writer.root.node("s0")
    return writer


def wide() -> Writer:
    """A thousand nodes for a subgraph with a thousand inputs."""
    writer = Writer()
    writer.subgraph("wide").inputs.extend(port(f"p{number}", "IMAGE") for number in range(1000))
    for _ in range(1000):
        writer.root.node("wide")
    return writer


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (doubling, "laid open it has more than 20000 nodes"),
        (deep, "it stands in too many subgraphs"),
        (wide, "the nodes for its subgraphs have more than 200000 inputs together"),
    ],
)
def test_subgraphs_that_grow_without_bounds(make: Callable[[], Writer], says: str) -> None:
    value = make().document()
    begun_s = time.process_time()
    with pytest.raises(EditorWorkflow, match=says):
        convert(value, CATALOGUE)

    assert time.process_time() - begun_s < 20


def test_a_long_row_of_reroutes_with_many_ends_takes_no_time() -> None:
    writer = Writer()
    origin = writer.root.of_class("Make", {"seed": 1})
    for _ in range(7000):
        following = writer.root.node("Reroute", [{"name": "", "type": "*"}], ["*"])
        writer.root.link(origin, 0, following, "")
        origin = following
    for _ in range(1500):
        save = writer.root.of_class("SaveImage", {"filename_prefix": "x"})
        writer.root.link(origin, 0, save, "images")
    value = writer.document()
    begun_s = time.process_time()
    graph = convert(value, CATALOGUE)

    assert time.process_time() - begun_s < 20
    assert all(each["inputs"]["images"] == ["1", 0] for each in graph.values() if each["class_type"] == "SaveImage")
    assert parse_graph(graph)
