"""Which refusals may be for want of a file that has come since."""

from __future__ import annotations

import pytest

from core.errors import InvalidWorkflow
from tests.unit.catalogue_literals import CATALOGUE, Nodes, image_graph, with_input
from workflows.graphs.checks import check_graph
from workflows.graphs.temporary_files import lacks_only_files


def lacks(graph: Nodes) -> bool:
    with pytest.raises(InvalidWorkflow) as caught:
        check_graph(graph, CATALOGUE)
    return lacks_only_files(graph, caught.value.node_errors)


@pytest.mark.parametrize(
    "graph",
    [
        with_input("CheckpointLoaderSimple", "ckpt_name", "x.safetensors"),
        with_input("CheckpointLoaderSimple", "ckpt_name", {"__value__": "sub\\x.safetensors"}),
        with_input("CheckpointLoaderSimple", "ckpt_name", "a-folder"),
        with_input("ManyLoras", "lora_name", "new.safetensors"),
        with_input("LoadImage", "image", "new.png"),
    ],
)
def test_a_file_may_have_come(graph: Nodes) -> None:
    assert lacks(graph)


@pytest.mark.parametrize(
    "graph",
    [
        with_input("CheckpointLoaderSimple", "ckpt_name", "../x.safetensors"),
        with_input("CheckpointLoaderSimple", "ckpt_name", 5),
        with_input("LoadImage", "image", "/etc/passwd"),
        with_input("ImageScale", "crop", "nope", image=["image", 0], scale=1, upscale_method="area", keep=True),
        with_input("CheckpointLoaderSimple", "ckpt_name", "x.safetensors") | {"u": {"class_type": "U", "inputs": {}}},
        {"1": image_graph()["1"]},
    ],
)
def test_no_file_would_help(graph: Nodes) -> None:
    assert not lacks(graph)
