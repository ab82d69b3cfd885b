from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.field_graphs import FieldGraph, field_graphs
from tests.unit.catalogue_literals import image_graph
from workflows.graphs.boundaries import paths_in
from workflows.graphs.graph import all_sources
from workflows.graphs.model_files import models_of
from workflows.graphs.node_facts import MAX_KEPT_BYTES, GraphFacts, facts_of
from workflows.graphs.references import find_references
from workflows.graphs.shape import shape_of

URL = "https://example.com/cat.png"


@pytest.mark.parametrize("case", field_graphs(), ids=lambda case: case.name)
def test_facts_are_what_a_look_at_the_whole_graph_finds(case: FieldGraph) -> None:
    for _ in range(2):
        graph = case.graph
        facts = GraphFacts(graph)
        assert facts.shape == shape_of(graph)
        assert list(facts.models) == models_of(graph)
        paths = {node_id: tuple(paths_in(node["inputs"])) for node_id, node in graph.items()}
        assert facts.paths == {node_id: found for node_id, found in paths.items() if found}
        assert facts.sources == all_sources(graph)


def test_an_equal_node_is_known_and_any_other_is_not() -> None:
    node = image_graph()["1"]
    known = facts_of(node)
    assert known.is_kept
    assert facts_of(copy.deepcopy(node)) is known
    for value in (64.0, True, "64", [64], None, 65):
        assert facts_of(node | {"inputs": node["inputs"] | {"width": value}}) is not known


def test_one_true_and_one_point_zero_are_three() -> None:
    found = [facts_of({"class_type": "A", "inputs": {"steps": value}}) for value in (1, 1.0, True)]
    assert len({facts.shape for facts in found}) == 3


def test_what_is_kept_does_not_change_with_the_graph_it_came_in() -> None:
    node: dict[str, Any] = {"class_type": "A", "inputs": {"steps": 4, "image": ["1", 0]}}
    before = facts_of(node).shape
    node["inputs"]["steps"] = 5
    assert facts_of({"class_type": "A", "inputs": {"steps": 4, "image": ["1", 0]}}).shape == before


@pytest.mark.parametrize("value", ["x" * MAX_KEPT_BYTES, 1 << 90, "\ud800", float("inf"), {"a": [None]}])
def test_odd_and_long_values_have_facts_too(value: object) -> None:
    node = {"class_type": "A", "inputs": {"text": value, "ckpt_name": "a.safetensors"}}
    for _ in range(2):
        assert facts_of(node).models == ("a.safetensors",)
    assert facts_of(node).is_kept == (len(str(value)) < 1000)


def test_what_no_json_is_has_facts_and_is_not_kept() -> None:
    nested: list[object] = []
    for _ in range(3000):
        nested = [nested]
    assert not facts_of({"class_type": "A", "inputs": {"x": nested}}).is_kept


@pytest.mark.parametrize("value", [URL, "data:image/png;base64,AAAA", "0" * 36, {"__type": "core/ASSET"}, None])
def test_what_may_refer_is_looked_at(value: object) -> None:
    assert facts_of({"class_type": "LoadImage", "inputs": {"image": value}}).may_refer


@pytest.mark.parametrize("value", ["a short text", 4, 0.5, True, ["1", 0]])
def test_what_refers_to_nothing_is_left_aside(value: object) -> None:
    assert not facts_of({"class_type": "LoadImage", "inputs": {"image": value}}).may_refer


def test_all_references_without_tags_are_in_nodes_that_may_refer() -> None:
    for case in field_graphs():
        graph = case.graph
        has_tags = "core/ASSET" in json.dumps(graph)
        found = find_references(graph, lambda _class_type, _name: "image", has_tags=has_tags)
        facts = GraphFacts(graph)
        assert has_tags or all(facts.nodes[each.node_id].may_refer for each in found)
