"""What a graph lacks on one kind of instance, told thing by thing."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import InvalidWorkflow
from tests.makers import GRAPH
from tests.unit.catalogue_literals import loading, with_checkpoints
from workflows.graphs.catalogue import CompiledCatalogue, cacheable_catalogue
from workflows.graphs.checks import check_graph
from workflows.graphs.lacks import Lack, Lacking, is_fetchable, is_there, lacking, nearest

HAS, LACKS = (cacheable_catalogue(with_checkpoints(name)) for name in ("sdxl.sft", "other.sft"))
MODEL = Lack(kind="model", name="sdxl.sft", class_type="CheckpointLoaderSimple", input_name="ckpt_name")


def lacks(graph: Any, catalogue: CompiledCatalogue) -> Lacking:
    with pytest.raises(InvalidWorkflow) as caught:
        check_graph(graph, catalogue)
    return lacking(graph, caught.value.node_errors, catalogue)


def test_a_model() -> None:
    assert lacks(loading("sdxl.sft"), LACKS) == Lacking(lacks={MODEL: ("n",)})
    assert (is_there(MODEL, HAS), is_there(MODEL, LACKS)) == (True, False)


def test_a_class_and_an_input_file_in_two_places() -> None:
    load: dict[str, Any] = {"class_type": "LoadImage", "inputs": {"image": "room.png"}}
    save: dict[str, Any] = {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "a"}}
    graph: dict[str, Any] = {**GRAPH, "4": load, "5": load, "6": save}
    graph["3"] = {"class_type": "EmptyImge", "inputs": {}}
    graph["7"] = {**save, "inputs": {**save["inputs"], "images": ["5", 0]}}
    found = lacks(graph, HAS)
    node = Lack(kind="node", name="EmptyImge")
    file = Lack(kind="input", name="room.png", class_type="LoadImage", input_name="image")
    assert found.lacks == {node: ("3",), file: ("4", "5")}
    assert found.others == ()
    assert nearest(node, [HAS], {}) == ["EmptyImage"]
    assert not is_there(node, HAS)


def test_what_is_no_thing_is_a_sentence() -> None:
    graph = {**GRAPH, "1": {**GRAPH["1"], "inputs": {**GRAPH["1"]["inputs"], "width": 10**6}}}
    found = lacks(graph, HAS)
    assert found.lacks == {}
    [sentence] = found.others
    assert sentence.startswith("Node 1 (EmptyImage): Value 1000000 bigger than max")


def test_names_like_it_are_those_that_could_be_had() -> None:
    typo = Lack(kind="model", name="sdx1.sft", class_type=MODEL.class_type, input_name=MODEL.input_name)
    assert nearest(typo, [HAS, LACKS], {}) == ["sdxl.sft"]
    assert nearest(typo, [LACKS], {"sdx2.sft": {"checkpoints"}, "sdx3.sft": {"loras"}}) == ["sdx2.sft"]
    file = Lack(kind="input", name="sdx1.sft", class_type=MODEL.class_type, input_name=MODEL.input_name)
    assert nearest(file, [LACKS], {"sdx2.sft": {"checkpoints"}}) == [], "what clients upload is in no manifest"


def test_fetchable_is_what_the_loader_would_find() -> None:
    assert is_fetchable(MODEL, {"sdxl.sft": {"checkpoints"}})
    assert not is_fetchable(MODEL, {"sdxl.sft": {"loras"}})
    assert not is_fetchable(MODEL, {})
