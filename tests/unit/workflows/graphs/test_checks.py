from __future__ import annotations

from typing import Any

import pytest

from core.errors import InvalidWorkflow
from tests.unit.catalogue_literals import CATALOGUE, Nodes, first, image_graph, node, refused, with_input
from workflows.graphs.checks import REFUSED_CLASSES, check_graph


def test_unknown_class() -> None:
    graph = image_graph() | {"7": {"class_type": "Nope", "inputs": {}, "_meta": {"title": "Mine"}}}
    found = first(graph, "7")
    assert found["type"] == "missing_node_type"
    assert found["message"] == "Cannot execute because node Nope does not exist."
    assert found["extra_info"] == {"node_id": "7", "class_type": "Nope", "node_title": "Mine"}


def test_no_output_node() -> None:
    graph = image_graph()
    del graph["2"]
    with pytest.raises(InvalidWorkflow, match="no output node"):
        check_graph(graph, CATALOGUE)


def test_required_inputs_missing() -> None:
    graph = image_graph()
    graph["1"]["inputs"] = {"width": 64}
    assert refused(graph) == {
        "1": {
            "errors": [
                {
                    "type": "required_input_missing",
                    "message": "Required input is missing",
                    "details": name,
                    "extra_info": {"input_name": name},
                }
                for name in ("height", "batch_size", "color")
            ],
            "dependent_outputs": ["2"],
            "class_type": "EmptyImage",
        }
    }


def test_bad_link_length() -> None:
    graph = image_graph()
    graph["2"]["inputs"]["images"] = ["1"]
    assert refused(graph)["2"] == {
        "errors": [
            {
                "type": "bad_linked_input",
                "message": "Bad linked input, must be a length-2 list of [node_id, slot_index]",
                "details": "images",
                "extra_info": {
                    "input_name": "images",
                    "input_config": ["IMAGE", {"tooltip": "The images to save."}],
                    "received_value": ["1"],
                },
            }
        ],
        "dependent_outputs": ["2"],
        "class_type": "SaveImage",
    }


def test_type_mismatch() -> None:
    graph = image_graph()
    graph["2"] = {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "x"}}
    assert first(graph, "2") == {
        "type": "return_type_mismatch",
        "message": "Return type mismatch between linked nodes",
        "details": "samples, received_type(IMAGE) mismatch input_type(LATENT)",
        "extra_info": {
            "input_name": "samples",
            "input_config": ["LATENT", {}],
            "received_type": "IMAGE",
            "linked_node": ["1", 0],
        },
    }


WIDTH = ["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}]


def test_over_the_maximum() -> None:
    graph = image_graph()
    graph["1"]["inputs"]["width"] = 999999
    assert first(graph, "1") == {
        "type": "value_bigger_than_max",
        "message": "Value 999999 bigger than max of 16384",
        "details": "width",
        "extra_info": {"input_name": "width", "input_config": WIDTH, "received_value": 999999},
    }


def test_not_a_number() -> None:
    graph = image_graph()
    graph["1"]["inputs"]["width"] = "abc"
    assert first(graph, "1") == {
        "type": "invalid_input_type",
        "message": "Failed to convert an input value to a INT value",
        "details": "width, abc, invalid literal for int() with base 10: 'abc'",
        "extra_info": {
            "input_name": "width",
            "input_config": WIDTH,
            "received_value": "abc",
            "exception_message": "invalid literal for int() with base 10: 'abc'",
        },
    }


def test_not_in_the_list() -> None:
    graph = with_input("CheckpointLoaderSimple", "ckpt_name", "x.safetensors")
    assert first(graph, "n") == {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": "ckpt_name: 'x.safetensors' not in []",
        "extra_info": {
            "input_name": "ckpt_name",
            "input_config": [[], {"tooltip": "The name of the checkpoint (model) to load."}],
            "received_value": "x.safetensors",
        },
    }


def test_a_file_that_is_not_there() -> None:
    assert first(with_input("LoadImage", "image", "zzz.png"), "n") == {
        "type": "custom_validation_failed",
        "message": "Custom validation failed for node",
        "details": "image - Invalid image file: zzz.png",
        "extra_info": {"input_name": "image"},
    }


def test_one_bad_output_refuses_the_whole_graph() -> None:
    graph = image_graph() | {
        "7": {"class_type": "LoadImage", "inputs": {"image": "zzz.png"}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "x"}},
    }
    found = refused(graph)
    assert list(found) == ["7"]
    assert found["7"]["dependent_outputs"] == ["8"]


@pytest.mark.parametrize(
    "link",
    [
        [],
        ["1"],
        ["1", 0, 0],
        ["999", 0],
        ["1", 1],
        ["1", 99],
        ["1", -2],
        ["1", "0"],
        ["1", 1.5],
        ["1", 0.0],
        ["1", None],
        [1, 0],
        [None, 0],
        [["1", 0], 0],
        ["2", 0],
    ],
)
def test_bad_links(link: list[Any]) -> None:
    graph = image_graph()
    graph["2"]["inputs"]["images"] = link
    found = refused(graph)
    assert "2" in found
    assert found["2"]["errors"][0]["type"] == "bad_linked_input"


def test_a_link_of_an_undeclared_input_must_lead_somewhere() -> None:
    graph = image_graph()
    graph["2"]["inputs"]["extra"] = ["999", 0]
    assert first(graph, "2")["type"] == "bad_linked_input"
    graph["2"]["inputs"]["extra"] = ["1", 5]
    assert first(graph, "2")["type"] == "bad_linked_input"
    graph["2"]["inputs"] |= {"extra": ["1", 0], "pair": [1, 2], "text": "x", "number": 5, "list": ["a", "b", "c"]}
    check_graph(graph, CATALOGUE)


@pytest.mark.parametrize("slot", [0, -1, False])
def test_a_slot_is_what_python_takes_as_an_index(slot: Any) -> None:
    graph = image_graph()
    graph["2"]["inputs"]["images"] = ["1", slot]
    check_graph(graph, CATALOGUE)


def test_a_node_behind_an_undeclared_link_is_not_validated_though_it_runs() -> None:
    graph = image_graph() | {"3": {"class_type": "EmptyImage", "inputs": {"width": 0}}}
    graph["2"]["inputs"]["extra"] = ["3", 0]
    assert check_graph(graph, CATALOGUE) == {"1", "2", "3"}
    # Its links must lead somewhere all the same.
    graph["3"]["inputs"]["height"] = ["999", 0]
    assert first(graph, "3")["type"] == "bad_linked_input"


PACK = "custom_nodes.pack"


@pytest.mark.parametrize(
    "graph",
    [
        with_input("Pack", "choice", "made later"),
        with_input("Pack", "size", 500),
        with_input("Pack", "number", ["values", 2]),
        with_input("Pack", "sampler", None),
        with_input("Needs", "int", ["pack", 0]) | {"pack": {"class_type": "Pack", "inputs": {}}},
        with_input("Needs", "int", ["pack", 7]) | {"pack": {"class_type": "Pack", "inputs": {}}},
        with_input("Grows", "part", 5),
    ],
)
def test_what_a_class_of_a_pack_may_judge_itself_is_left_to_the_server(graph: Nodes) -> None:
    check_graph(graph, CATALOGUE)


@pytest.mark.parametrize(
    ("graph", "error"),
    [
        (with_input("Pack", "size", "abc"), "invalid_input_type"),
        (with_input("Pack", "size", [1, 2, 3]), "bad_linked_input"),
        (with_input("Pack", "number", ["gone", 0]), "bad_linked_input"),
        (with_input("Pack", "number", ["values", 99]), "bad_linked_input"),
        (with_input("Strict", "other", 1), "required_input_missing"),
        (with_input("Pack", "file", "../../etc/passwd"), "custom_validation_failed"),
        (with_input("Pack", "choice", "/etc/passwd"), "custom_validation_failed"),
        (with_input("Pack", "choice", "x.png [output]"), "custom_validation_failed"),
    ],
)
def test_what_no_class_can_change_is_refused_of_a_pack_too(graph: Nodes, error: str) -> None:
    assert first(graph, "n")["type"] == error


def test_every_reason_is_told_at_once() -> None:
    graph = image_graph() | {
        "3": {"class_type": "FooLoader", "inputs": {}},
        "4": {"class_type": "BarSampler", "inputs": {"x": ["3", 0]}},
        "5": {"class_type": "ImageInvert", "inputs": {}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}},
    }
    graph["1"]["inputs"]["width"] = 0
    with pytest.raises(InvalidWorkflow) as caught:
        check_graph(graph, CATALOGUE)
    assert set(caught.value.node_errors) == {"1", "3", "4", "5"}
    assert caught.value.message == (
        "Node 3 (FooLoader): Cannot execute because node FooLoader does not exist: Node ID '#3'; "
        "Node 4 (BarSampler): Cannot execute because node BarSampler does not exist: Node ID '#4'; "
        "Node 1 (EmptyImage): Value 0 smaller than min of 1: width; "
        "Node 5 (ImageInvert): Required input is missing: image"
    )


def test_a_graph_without_an_output_tells_what_else_is_wrong() -> None:
    graph: Nodes = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nope.safetensors"}}}
    with pytest.raises(InvalidWorkflow, match=r"no output node .*Node 1 \(CheckpointLoaderSimple\): Value not in list"):
        check_graph(graph, CATALOGUE)
    unknown: Nodes = {"1": {"class_type": "MaybeAnOutput", "inputs": {}}}
    with pytest.raises(InvalidWorkflow, match=r"^Node 1 \(MaybeAnOutput\)"):
        check_graph(unknown, CATALOGUE)


# slots of Values: 0 INT, 1 FLOAT, 2 STRING, 3 BOOLEAN, 4 *, 5 INT,FLOAT, 6 a list of options, 7 COMBO
@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("int", {0, 4, 5}),
        ("number", {0, 1, 4, 5}),
        ("string", {2, 4}),
        ("old_combo", {4, 6}),
        ("combo", {4, 6, 7}),
        ("any", {0, 1, 2, 3, 4, 5, 6, 7}),
        ("match", {0, 1, 2, 3, 4, 5, 6, 7}),
        ("curve", {4}),
    ],
)
def test_which_outputs_may_be_linked_to_which_inputs(name: str, slots: set[int]) -> None:
    for slot in range(8):
        graph = with_input("Needs", name, ["values", slot])
        if slot in slots:
            check_graph(graph, CATALOGUE)
        else:
            assert first(graph, "n")["type"] == "return_type_mismatch"


def test_a_match_type_output_fits_everywhere() -> None:
    graph = image_graph()
    graph["s"] = {"class_type": "Switch", "inputs": {"switch": True, "on": ["1", 0]}}
    graph["2"]["inputs"]["images"] = ["s", 0]
    check_graph(graph, CATALOGUE)
    del graph["s"]["inputs"]["on"]
    assert first(graph, "s")["type"] == "required_input_missing"


def test_refused_classes_give_their_reason_connected_or_not() -> None:
    graph = image_graph() | {"x": {"class_type": "LoadTrainingDataset", "inputs": {"folder_name": "f"}}}
    found = first(graph, "x")
    assert found["type"] == "node_type_refused"
    assert "unpickles" in found["message"]


@pytest.mark.parametrize("class_type", sorted(REFUSED_CLASSES))
def test_refused_classes_are_refused_wherever_they_come_from(class_type: str) -> None:
    catalogue = CATALOGUE | {class_type: node({}, [], saves=True)}
    graph: Nodes = {"x": {"class_type": class_type, "inputs": {}}}
    with pytest.raises(InvalidWorkflow) as caught:
        check_graph(graph, catalogue)
    assert caught.value.node_errors["x"]["errors"][0]["type"] == "node_type_refused"
    check_graph(graph, catalogue, refused_classes=())


def test_an_operator_may_refuse_others() -> None:
    assert first(image_graph(), "1", refused_classes={"EmptyImage"})["type"] == "node_type_refused"
