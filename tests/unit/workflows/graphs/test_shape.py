from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import EditorWorkflow, InvalidWorkflow, NotFound
from tests.unit.catalogue_literals import CATALOGUE, Nodes, chain, image_graph, refused, ring
from workflows.graphs.checks import MAX_CHAIN_NODES, cacheable_catalogue, check_graph
from workflows.graphs.graph import (
    MAX_NODES,
    all_sources,
    ancestors,
    is_link,
    measure_depths,
    output_nodes,
    parse_graph,
    reached_in_order,
)
from workflows.templates.samples import NAMES, sample


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "must be an object"),
        ([], "must be an object"),
        ("{}", "must be an object"),
        (json.dumps(image_graph()), "must be an object.* it is text: send it as an object"),
        (5, "must be an object"),
        ({}, "no nodes"),
        ({"1": []}, "Node 1"),
        ({"1": "SaveImage"}, "Node 1"),
        ({"": {"class_type": "A", "inputs": {}}}, "node id"),
        ({"1": {"inputs": {}}}, "class_type"),
        ({"1": {"class_type": None, "inputs": {}}}, "class_type"),
        ({"1": {"class_type": ["A"], "inputs": {}}}, "class_type"),
        ({"1": {"class_type": "", "inputs": {}}}, "class_type"),
        ({"1": {"class_type": "A"}}, "`inputs`"),
        ({"1": {"class_type": "A", "inputs": []}}, "`inputs`"),
        ({"1": {"class_type": "A", "inputs": None}}, "`inputs`"),
        ({str(n): {"class_type": "A", "inputs": {}} for n in range(MAX_NODES + 1)}, "2001 nodes"),
        ({"n" * 513: {"class_type": "A", "inputs": {}}}, "at most 512 characters"),
        ({"nodes": []}, "Node nodes"),
        ({"prompt": image_graph()}, "class_type.*; a graph stands in its prompt: send that alone"),
        ({"workflow": {"nodes": [], "links": []}}, "a graph stands in its workflow: send that alone"),
        ({"extra_pnginfo": {"workflow": {"nodes": [], "links": []}}, "a": {}}, "class_type"),
    ],
)
def test_parse_graph_refuses(value: Any, says: str) -> None:
    with pytest.raises(InvalidWorkflow, match=says) as caught:
        parse_graph(value)
    assert not isinstance(caught.value, EditorWorkflow)


@pytest.mark.parametrize("key", ["class_type", "inputs"])
def test_parse_graph_names_the_node(key: str) -> None:
    graph = image_graph()
    del graph["2"][key]
    with pytest.raises(InvalidWorkflow) as caught:
        parse_graph(graph)
    assert list(caught.value.node_errors) == ["2"]
    assert caught.value.node_errors["2"]["errors"][0]["type"]


def test_the_editors_format_is_told_apart() -> None:
    with pytest.raises(EditorWorkflow, match=r"Export \(API\)"):
        parse_graph({"last_node_id": 1, "nodes": [{"id": 1, "type": "SaveImage"}], "links": [], "version": 0.4})


def test_parse_graph_changes_nothing() -> None:
    graph = image_graph() | {"x": {"class_type": "A", "inputs": {}, "_meta": {"title": "t"}, "is_changed": [1]}}
    assert parse_graph(graph) == graph
    assert parse_graph({str(n): {"class_type": "A", "inputs": {}} for n in range(MAX_NODES)})


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cycle_names_its_nodes(length: int) -> None:
    found = refused(ring(length))
    assert set(found) == {f"r{n}" for n in range(length)}
    error = found["r0"]["errors"][0]
    assert error["type"] == "dependency_cycle"
    assert error["message"] == "Dependency cycle detected"
    assert set(error["extra_info"]["cycle_nodes"]) == set(found)
    assert found["r0"]["dependent_outputs"] == ["out"]


def test_three_nodes_in_a_ring_are_named_in_order() -> None:
    details = refused(ring(3))["r1"]["errors"][0]["details"]
    assert details == "r0 (ImageInvert) -> r1 (ImageInvert) -> r2 (ImageInvert) -> r0 (ImageInvert)"


def test_a_cycle_that_nothing_needs_is_left_alone() -> None:
    graph = image_graph() | {"a": {"class_type": "ImageInvert", "inputs": {"image": ["a", 0]}}}
    check_graph(graph, CATALOGUE)


def test_a_diamond_is_no_cycle() -> None:
    graph = image_graph()
    graph["a"] = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0], "again": ["1", 0]}}
    graph["b"] = {"class_type": "ImageInvert", "inputs": {"image": ["a", 0], "also": ["1", 0]}}
    graph["2"]["inputs"] |= {"images": ["b", 0], "x": ["a", 0]}
    assert measure_depths(all_sources(graph), ["2"], {}) == []
    check_graph(graph, CATALOGUE)


def test_a_long_chain_is_checked_without_recursion() -> None:
    graph = parse_graph(chain(MAX_CHAIN_NODES))
    check_graph(graph, CATALOGUE)
    assert ancestors(graph, output_nodes(graph, CATALOGUE)) == set(graph)
    graph["1"]["inputs"]["width"] = 0
    assert refused(graph)["1"]["dependent_outputs"] == ["2"]


@pytest.mark.parametrize("connected", [True, False])
def test_a_chain_that_comfyui_could_not_recurse_through_is_refused(connected: bool) -> None:
    graph = parse_graph(chain(MAX_NODES))
    if not connected:
        graph["2"]["inputs"]["images"] = ["1", 0]
    found = refused(graph)
    assert [entry["errors"][0]["type"] for entry in found.values()] == ["dependency_chain_too_long"]


def test_2000_nodes_side_by_side_are_accepted() -> None:
    graph = image_graph()
    for n in range(3, MAX_NODES + 1):
        graph[str(n)] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    check_graph(parse_graph(graph), CATALOGUE)


def test_depth_is_the_longest_chain_whatever_the_order() -> None:
    graph = chain(6)
    graph["2"]["inputs"] = {"shortcut": ["1", 0], "images": ["6", 0], "other": ["4", 0]}
    depths: dict[str, int] = {}
    assert measure_depths(all_sources(graph), graph, depths) == []
    assert depths == {"1": 1, "3": 2, "4": 3, "5": 4, "6": 5, "2": 6}


def test_a_ring_of_1999_nodes_gets_a_short_answer() -> None:
    assert len(json.dumps(refused(ring(MAX_NODES - 1)))) < 200_000


def test_2000_broken_nodes_get_a_short_answer_soon() -> None:
    started_s = time.thread_time()
    graph: Nodes = {str(n): {"class_type": "SaveImage", "inputs": {}} for n in range(MAX_NODES)}
    assert len(refused(graph)) == 100
    assert time.thread_time() - started_s < 2


def test_the_compiled_catalogue_reads_like_the_raw_one() -> None:
    compiled = cacheable_catalogue(CATALOGUE)
    assert dict(compiled) == CATALOGUE
    assert cacheable_catalogue(compiled) is compiled
    check_graph(image_graph(), compiled)
    with pytest.raises(InvalidWorkflow):
        check_graph({"1": {"class_type": "Nope", "inputs": {}}}, compiled)


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"input": None, "output": None, "output_node": True},
        {"input": {"required": {"x": []}}, "output": "IMAGE", "output_node": True},
        {"input": {"required": {"x": "INT"}, "optional": []}, "output": [], "output_node": True},
        {"input": {"required": {"x": ["INT", "oops"]}}, "output": [None], "output_node": True},
        {"input": {"required": {"x": [["a", ["b"]], {"min": None}]}}, "output": [{}], "output_node": True},
        {"input": {"required": {"x": [None]}}, "output_node": True},
    ],
)
def test_a_custom_nodes_odd_declaration_does_not_break_the_check(info: dict[str, Any]) -> None:
    graph = image_graph() | {"odd": {"class_type": "Odd", "inputs": {"x": "a", "y": ["1", 0]}}}
    with contextlib.suppress(InvalidWorkflow):
        check_graph(graph, CATALOGUE | {"Odd": info})


def test_output_nodes_and_what_they_depend_on() -> None:
    graph = image_graph() | {"idle": {"class_type": "EmptyImage", "inputs": {}}}
    assert output_nodes(graph, CATALOGUE) == ["2"]
    assert ancestors(graph, ["2"]) == {"1", "2"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(["1", 0], True), (["1", 0.5], True), ([1, 0], False), (["1"], False), (["1", "0"], False), ("10", False)],
)
def test_is_link(value: Any, expected: bool) -> None:
    assert is_link(value) is expected


def test_samples_are_graphs() -> None:
    for name in NAMES:
        graph = sample(name)
        graph["x"] = {}
        assert "x" not in sample(name)
        assert any(each.get("class_type") == "SaveImage" for each in graph.values())
    check_graph(sample("image_only"), CATALOGUE)
    with pytest.raises(NotFound, match="demo"):
        sample("../demo")


def test_80_nodes_are_checked_fast() -> None:
    graph, compiled = chain(80), cacheable_catalogue(CATALOGUE)
    check_graph(graph, compiled)
    best = min(_seconds(graph, compiled) for _ in range(20))
    assert best < 0.005  # measured 0.15 ms; the slack is for a busy machine


def _seconds(graph: Nodes, compiled: Any) -> float:
    started = time.perf_counter()
    check_graph(graph, compiled)
    return time.perf_counter() - started


@given(
    st.lists(st.lists(st.integers(0, 6).map(str), max_size=3), min_size=1, max_size=6),
    st.sets(st.integers(0, 6).map(str), max_size=3),
)
def test_nodes_in_order_are_reached_as_by_the_long_way(taken: list[list[str]], roots: set[str]) -> None:
    sources_of = {str(number): sources for number, sources in enumerate(taken)}
    existing = {node_id: [each for each in sources if each in sources_of] for node_id, sources in sources_of.items()}
    roots &= sources_of.keys()
    depths: dict[str, int] = {}
    cycle = measure_depths(existing, roots, depths)
    is_in_order = all(int(each) < int(node_id) for node_id in depths for each in existing[node_id])

    assert reached_in_order(sources_of, roots) == (set(depths) if is_in_order else None)
    assert not (is_in_order and cycle)
