"""Bodies in another system's shape: where the graph stands is said, and where it belongs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.catalogue_literals import image_graph
from workflows.graphs.misplaced import misplaced_graph

GRAPH: dict[str, Any] = image_graph()
TEXT = json.dumps(GRAPH)
EDITOR = {"nodes": [], "links": [], "version": 0.4}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            {"prompt": GRAPH, "client_id": "abc"},
            ('workflow is missing. A graph stands in prompt: send {"workflow": {...}}.',),
        ),
        (GRAPH, ('workflow is missing. The body is itself a graph: send {"workflow": {...}}.',)),
        ({"input": {"workflow": GRAPH, "images": []}}, ("A graph stands in input.workflow:",)),
        ({"input": {"workflow_json": GRAPH}}, ("A graph stands in input.workflow_json:",)),
        ({"workflow_api": TEXT}, ("in workflow_api: send", "; send it as an object, not as text.")),
        ({"input": {"prompt": TEXT}}, ("in input.prompt: ",)),
        ({"json": EDITOR}, ('in json: send {"workflow": {...}}.',)),
        ({"a": {"b": {"c": GRAPH}}}, ("in a.b.c: ",)),
        (TEXT, ("The body is itself a graph: send", "; send it as an object, not as text.")),
        (EDITOR, ('The body is itself a graph: send {"workflow": {...}}.',)),
        ({"prompt": {**GRAPH, "9": {"_meta": {}}}}, ("in prompt: ",)),
    ],
)
def test_where_the_graph_is(body: Any, says: tuple[str, ...]) -> None:
    found = misplaced_graph(body, "workflow")
    assert found is not None
    assert all(part in found for part in says), found


@pytest.mark.parametrize(
    "body",
    [
        {},
        None,
        [],
        "text",
        {"prompt": "a cat"},
        {"prompt": {}},
        {"text": "{not a graph"},
        {"extra_data": {"extra_pnginfo": {"workflow": EDITOR}}},
        {"a": {"b": {"c": {"d": GRAPH}}}},
        {"nodes": 5, "list": [GRAPH]},
    ],
)
def test_where_there_is_none(body: Any) -> None:
    assert misplaced_graph(body, "workflow") is None


def test_a_field_within_another_is_spelled_out() -> None:
    found = misplaced_graph({"input": {"workflow": GRAPH}}, "input.workflow_json")
    assert found == (
        'input.workflow_json is missing. A graph stands in input.workflow: send {"input": {"workflow_json": {...}}}.'
    )
