"""Subgraphs laid open: ids, links in and out, and the widgets that they show on their outside."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import EditorWorkflow
from tests.editor.writer import CATALOGUE, Json, Sheet, Writer, port
from workflows.editor.convert import convert

MADE = {"seed": 7, "text": "a cat", "kind": "b"}
MUTED, BYPASSED = 2, 4


def converted(writer: Writer) -> dict[str, Json]:
    """The inputs of each node."""
    return {node_id: node["inputs"] for node_id, node in convert(writer.document(), CATALOGUE).items()}


def maker(writer: Writer, *shown: str) -> Sheet:
    """A subgraph of one node, which shows some of its widgets."""
    inner = writer.subgraph("maker")
    make = inner.of_class("Make", MADE)
    inner.outputs.append(port("IMAGE", "IMAGE"))
    inner.link(make, 0, -20, 0)
    for number, name in enumerate(shown):
        inner.inputs.append(port(name, "STRING"))
        inner.link(-10, number, make, name)
    return inner


def host(sheet: Sheet, *shown: str, values: Any = None, type_: str = "maker", **more: Any) -> Json:
    slots = [{"name": name, "type": "STRING", "widget": {"name": name}} for name in shown]
    return sheet.node(type_, slots, ["IMAGE"], values, **more)


def saved(sheet: Sheet, origin: Json) -> str:
    save = sheet.of_class("SaveImage", {"filename_prefix": "x"})
    sheet.link(origin, 0, save, "images")
    return str(save["id"])


def test_each_node_for_a_subgraph_has_its_own_nodes_and_values() -> None:
    writer = Writer()
    maker(writer, "text", "seed")
    one = host(writer.root, "text", "seed", values=["a dog", 1])
    two = host(writer.root, "text", "seed")
    count = writer.root.of_class("Count", {"value": 3})
    writer.root.link(count, 0, two, "seed")
    first, second = saved(writer.root, one), saved(writer.root, two)

    graph = converted(writer)
    assert graph[f"{one['id']}:1"] == {"seed": 1, "text": "a dog", "kind": "b"}
    assert graph[f"{two['id']}:1"] == {"seed": [str(count["id"]), 0], "text": "a cat", "kind": "b"}
    assert graph[first]["images"] == [f"{one['id']}:1", 0]
    assert graph[second]["images"] == [f"{two['id']}:1", 0]


def test_subgraphs_within_subgraphs() -> None:
    writer = Writer()
    maker(writer, "text")
    outer = writer.subgraph("outer")
    inner_host = host(outer, "text")
    outer.inputs.append(port("prompt", "STRING"))
    outer.link(-10, 0, inner_host, "text")
    outer.outputs.append(port("IMAGE", "IMAGE"))
    outer.link(inner_host, 0, -20, 0)
    top = host(writer.root, "prompt", values=["from outside"], type_="outer")
    save = saved(writer.root, top)

    made = f"{top['id']}:{inner_host['id']}:1"
    assert converted(writer) == {
        made: {"seed": 7, "text": "from outside", "kind": "b"},
        save: {"images": [made, 0], "filename_prefix": "x"},
    }


def test_definitions_within_definitions() -> None:
    writer = Writer()
    maker(writer)
    outer = writer.subgraph("outer")
    inner_host = host(outer)
    top = host(writer.root, type_="outer")
    document = writer.document()
    one, two = document["definitions"]["subgraphs"]
    document["definitions"]["subgraphs"] = [{**two, "definitions": {"subgraphs": [one]}}]

    assert list(convert(document, CATALOGUE)) == [f"{top['id']}:{inner_host['id']}:1"]


def test_links_to_the_outside_lead_to_several_nodes() -> None:
    writer = Writer()
    inner = writer.subgraph("part")
    inner.inputs.append(port("image", "IMAGE"))
    one, two = (inner.of_class("SaveImage", {"filename_prefix": "x"}) for _ in range(2))
    inner.link(-10, 0, one, "images")
    inner.link(-10, 0, two, "images")
    node = writer.root.node("part", [{"name": "image", "type": "IMAGE"}])
    make = writer.root.of_class("Make", MADE)
    writer.root.link(make, 0, node, "image")

    graph = converted(writer)
    assert [graph[f"{node['id']}:{each['id']}"]["images"] for each in (one, two)] == [[str(make["id"]), 0]] * 2


@pytest.mark.parametrize("mode", [MUTED, BYPASSED])
def test_a_subgraph_that_does_not_run_stays_closed(mode: int) -> None:
    writer = Writer()
    maker(writer)
    save = saved(writer.root, host(writer.root, mode=mode))

    assert converted(writer) == {save: {"filename_prefix": "x"}}


def test_ids_that_are_taken_are_replaced_as_the_editor_does() -> None:
    writer = Writer()
    inner = writer.subgraph("part")
    save = saved(inner, inner.of_class("Make", MADE, id=50))
    writer.root.of_class("Count", {"value": 1}, id=50)
    node = writer.root.node("part")
    last = writer.document()["last_node_id"]

    # The first free number behind the last one that the document has given.
    new = last + 1
    assert converted(writer)[f"{node['id']}:{save}"]["images"] == [f"{node['id']}:{new}", 0]


def listed(*names: tuple[str, ...]) -> Json:
    return {"proxyWidgets": [list(each) for each in names]}


def test_older_documents_name_the_widgets_beside() -> None:
    writer = Writer()
    maker(writer, "text")
    node = host(writer.root, "text", values=[11, "b", "a dog"])
    node["properties"] = listed(("1", "seed"), ("1", "kind"), ("-1", "text"))
    other = host(writer.root, "text")

    graph = converted(writer)
    assert graph[f"{node['id']}:1"] == {"seed": 11, "text": "a dog", "kind": "b"}
    assert graph[f"{other['id']}:1"] == MADE


def test_a_widget_named_beside_that_an_input_shows_already() -> None:
    writer = Writer()
    maker(writer, "text", "seed")
    node = host(writer.root, "text", "seed", values=[12, "a dog"])
    node["properties"] = listed(("1", "seed"), ("1", "1: text"), ("1", "$$preview"), ("77", "gone"))

    assert converted(writer)[f"{node['id']}:1"] == {"seed": 12, "text": "a dog", "kind": "b"}


def test_a_primitive_within_that_is_named_beside() -> None:
    writer = Writer()
    inner = writer.subgraph("part")
    primitive = inner.node("PrimitiveNode", (), ["INT"], [5, "fixed"])
    make = inner.of_class("Make", MADE)
    inner.link(primitive, 0, make, "seed")
    node = writer.root.node("part", values=[6], properties=listed((str(primitive["id"]), "value")))
    plain = writer.root.node("part")

    graph = converted(writer)
    assert graph[f"{node['id']}:{make['id']}"]["seed"] == 6
    assert graph[f"{plain['id']}:{make['id']}"]["seed"] == 7


def test_a_widget_of_a_subgraph_within_that_is_named_beside() -> None:
    writer = Writer()
    maker(writer, "text")
    outer = writer.subgraph("outer")
    inner_host = host(outer, "text")
    names = [(str(inner_host["id"]), "text")]
    top = host(writer.root, values=["deep"], type_="outer", properties=listed(*names))

    assert converted(writer)[f"{top['id']}:{inner_host['id']}:1"]["text"] == "deep"


def test_values_set_aside() -> None:
    writer = Writer()
    maker(writer, "text")
    aside = {
        "originalEntry": ["-1", "text"],
        "reason": "missingSourceNode",
        "hostValue": "kept",
        "attemptedAtVersion": 1,
    }
    node = host(writer.root, "text", values=["lost"], properties={"proxyWidgetErrorQuarantine": [aside]})

    assert converted(writer)[f"{node['id']}:1"]["text"] == "kept"


def test_a_subgraph_in_itself_is_refused() -> None:
    writer = Writer()
    writer.subgraph("one").node("two")
    writer.subgraph("two").node("one")
    writer.root.node("one")

    with pytest.raises(EditorWorkflow, match="the subgraph 'one' contains itself"):
        convert(writer.document(), CATALOGUE)


def test_a_way_straight_through_is_refused_as_the_editor_does() -> None:
    writer = Writer()
    inner = writer.subgraph("part")
    inner.inputs.append(port("image", "IMAGE"))
    inner.outputs.append(port("IMAGE", "IMAGE"))
    inner.link(-10, 0, -20, 0)
    node = writer.root.node("part", [{"name": "image", "type": "IMAGE"}], ["IMAGE"])
    saved(writer.root, node)

    with pytest.raises(EditorWorkflow, match="leads from an input straight to an output"):
        convert(writer.document(), CATALOGUE)
