"""Graphs that lack nothing but files of the manifest, and names that are nearly those that are there."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import InvalidWorkflow, NodeErrors
from core.records.model_file import ModelFile
from tests.unit.catalogue_literals import Nodes, loading, node, with_checkpoints
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


@pytest.mark.parametrize(
    ("class_type", "input_name", "folder", "takes"),
    [
        ("UpscaleModelLoader", "model_name", "upscale_models", True),
        ("UpscaleModelLoader", "model_name", "checkpoints", False),
        ("CLIPLoader", "clip_name", "text_encoders", True),
        ("CLIPLoader", "clip_name", "clip", True),
        ("CLIPLoader", "clip_name", "clip_vision", False),
        ("DualCLIPLoader", "clip_name2", "clip_vision", False),
        ("CLIPVisionLoader", "clip_name", "clip_vision", True),
        ("CLIPVisionLoader", "clip_name", "text_encoders", False),
        # Of others nobody knows where they look.
        ("OtherLoader", "model_name", "checkpoints", True),
    ],
)
def test_loaders_take_files_of_their_own_folders(class_type: str, input_name: str, folder: str, takes: bool) -> None:
    known = node({input_name: [["other.safetensors"], {}]}, ["MODEL"], saves=True)
    graph = {"1": {"class_type": class_type, "inputs": {input_name: "a.safetensors"}}}
    with pytest.raises(InvalidWorkflow) as caught:
        check_graph(graph, {class_type: known})

    found = fetchable_files(graph, caught.value.node_errors, manifest(f"{folder}/a.safetensors"))

    assert found == ({"a.safetensors"} if takes else set())


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
