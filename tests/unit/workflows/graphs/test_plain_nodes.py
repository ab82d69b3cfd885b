from __future__ import annotations

import copy
from typing import Any

import pytest

from core.errors import InvalidWorkflow
from tests.field_graphs import FieldGraph, field_graphs, simulated_catalogue
from tests.unit.catalogue_literals import CATALOGUE, image_graph
from workflows.graphs import checks, plain_nodes
from workflows.graphs.catalogue import CompiledCatalogue, cacheable_catalogue
from workflows.graphs.node_facts import facts_of
from workflows.graphs.plain_nodes import fits, plain_node

Nodes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> CompiledCatalogue:
    return cacheable_catalogue(simulated_catalogue(tmp_path_factory.mktemp("simulator")))


def verdict(graph: Nodes, catalogue: CompiledCatalogue) -> object:
    try:
        return checks.check_graph(graph, catalogue)
    except InvalidWorkflow as exc:
        return str(exc), exc.node_errors


def variants(graph: Nodes) -> list[Nodes]:
    """The graph, and with each of its inputs in turn left out, or put to something else."""
    found = [graph]
    for node_id, node in graph.items():
        for name in node["inputs"]:
            for value in (None, -1, "../x", ["nobody", 0], [node_id, 0], [node_id, 9], ["1"], {"a": 1}):
                changed = copy.deepcopy(graph)
                changed[node_id]["inputs"][name] = value
                found.append(changed)
            changed = copy.deepcopy(graph)
            del changed[node_id]["inputs"][name]
            changed[node_id]["inputs"]["undeclared"] = ["1", 0]
            found.append(changed)
    return found


@pytest.mark.parametrize("case", field_graphs(), ids=lambda case: case.name)
def test_verdicts_are_those_of_a_look_at_everything(
    case: FieldGraph, catalogue: CompiledCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = variants(case.graph)[:200]
    short = [verdict(graph, catalogue) for graph in graphs]
    with monkeypatch.context() as patched:
        patched.setattr(checks, "plain_node", lambda *_: None)
        assert short == [verdict(graph, catalogue) for graph in graphs]


def test_a_node_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = cacheable_catalogue(dict(CATALOGUE))
    looks: list[str] = []
    found = plain_nodes._found

    def counted(spec: Any, node: Any, facts: Any) -> Any:
        looks.append(spec.class_type)
        return found(spec, node, facts)

    monkeypatch.setattr(plain_nodes, "_found", counted)
    for _ in range(3):
        checks.check_graph(image_graph(), catalogue)
    assert sorted(looks) == ["EmptyImage", "SaveImage"]


def test_another_catalogue_judges_for_itself() -> None:
    checks.check_graph(image_graph(), cacheable_catalogue(dict(CATALOGUE)))
    stricter = copy.deepcopy(dict(CATALOGUE))
    stricter["EmptyImage"]["input"]["required"]["width"] = ["INT", {"min": 65, "max": 66}]
    with pytest.raises(InvalidWorkflow):
        checks.check_graph(image_graph(), cacheable_catalogue(stricter))


def test_what_is_kept_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_nodes, "KEPT_NODES", 4)
    catalogue = cacheable_catalogue(dict(CATALOGUE))
    for width in range(16, 36):
        graph = image_graph()
        graph["1"]["inputs"]["width"] = width
        checks.check_graph(graph, catalogue)
        assert len(catalogue.plain_nodes) <= 4


def test_a_link_must_lead_to_an_output_that_fits(catalogue: CompiledCatalogue) -> None:
    node = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
    spec, source = catalogue.node("SaveImage"), catalogue.node("EmptyImage")
    assert spec is not None
    assert source is not None
    plain = plain_node(catalogue, spec, node, facts_of(node))
    assert plain is not None
    assert fits(plain, {"1": source})
    assert not fits(plain, {"1": None})
    assert not fits(plain, {})
    assert not fits(plain, {"1": catalogue.node("VAELoader")})
