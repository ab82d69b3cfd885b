"""Graphs that lack nothing but files of the manifest, and names that are nearly those that are there."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import InvalidWorkflow, NodeErrors
from core.records.model_file import ModelFile
from tests.unit.catalogue_literals import Nodes, loading, with_checkpoints
from workflows.graphs.catalogue import cacheable_catalogue
from workflows.graphs.checks import check_graph
from workflows.graphs.fetchable import fetchable_files, folders_of, nearest_names

CATALOGUE: dict[str, Any] = with_checkpoints("base_v1.safetensors", "other.safetensors")


def manifest(*paths: str) -> dict[str, set[str]]:
    return folders_of(ModelFile(path=path, source="https://models.example/x") for path in paths)


def errors(graph: Nodes) -> NodeErrors:
    with pytest.raises(InvalidWorkflow) as caught:
        check_graph(graph, CATALOGUE)
    return caught.value.node_errors


@pytest.mark.parametrize(
    ("name", "paths", "found"),
    [
        ("a.safetensors", ("checkpoints/a.safetensors",), {"a.safetensors"}),
        ("a.safetensors", ("loras/a.safetensors", "checkpoints/a.safetensors"), {"a.safetensors"}),
        ("sub/a.safetensors", ("checkpoints/sub/a.safetensors",), {"sub/a.safetensors"}),
        ("a.safetensors", ("loras/a.safetensors",), set()),
        ("a.safetensors", ("checkpoints/sub/a.safetensors",), set()),
        ("a.safetensors", (), set()),
        ("../checkpoints/a.safetensors", ("checkpoints/a.safetensors",), set()),
    ],
)
def test_only_what_the_manifest_has_for_this_loader(name: str, paths: tuple[str, ...], found: set[str]) -> None:
    graph = loading(name)
    assert fetchable_files(graph, errors(graph), manifest(*paths)) == found


def test_not_if_anything_else_is_wrong() -> None:
    graph = {**loading("a.safetensors"), "x": {"class_type": "Nope", "inputs": {}}}
    assert fetchable_files(graph, errors(graph), manifest("checkpoints/a.safetensors")) == set()


def test_the_names_most_like_one_that_is_not_there() -> None:
    graph = loading("bas_v1.safetensors")
    known = manifest("checkpoints/base_v2.safetensors")
    found = nearest_names(graph, errors(graph), cacheable_catalogue(CATALOGUE), known)
    assert found == ("bas_v1.safetensors", ["base_v1.safetensors", "base_v2.safetensors"])
    graph = loading("x.bin")
    assert nearest_names(graph, errors(graph), cacheable_catalogue(CATALOGUE), manifest("loras/x2.bin")) is None
