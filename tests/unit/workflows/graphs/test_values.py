from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.catalogue_literals import CATALOGUE, Nodes, first, image_graph, refused, with_input
from workflows.graphs.checks import check_graph

SCALE = {"image": ["image", 0], "scale": 1.0, "upscale_method": "area", "crop": "center", "keep": False}


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("scale", 2, None),
        ("scale", "2.5", None),
        ("scale", " 2 ", None),
        ("scale", True, None),
        ("scale", "nan", None),
        ("scale", {"__value__": 2}, None),
        ("scale", 0.001, "value_smaller_than_min"),
        ("scale", 8.5, "value_bigger_than_max"),
        ("scale", "inf", "value_bigger_than_max"),
        ("scale", "two", "invalid_input_type"),
        ("scale", None, "invalid_input_type"),
        ("scale", {}, "invalid_input_type"),
        ("scale", {"__value__": [1]}, "invalid_input_type"),
        ("steps", 5, None),
        ("steps", "5", None),
        ("steps", 5.9, None),
        ("steps", "1_0", None),
        ("steps", "5.0", "invalid_input_type"),
        ("steps", "9" * 5000, "invalid_input_type"),
        ("steps", -1, "value_smaller_than_min"),
        ("steps", 11, "value_bigger_than_max"),
        ("steps", 2**63, "value_bigger_than_max"),
        ("mask", "cat", None),
        ("mask", {"__value__": [[1, 2]]}, None),
        ("mask", {"a": 1}, None),
        ("keep", "anything", None),
        ("keep", None, None),
        ("upscale_method", "nearest-exact", None),
        ("upscale_method", "Area", "value_not_in_list"),
        ("upscale_method", 1, "value_not_in_list"),
        ("upscale_method", {}, "value_not_in_list"),
        ("upscale_method", {"__value__": ["area"]}, "value_not_in_list"),
        ("crop", "disabled", None),
        ("crop", "nope", "value_not_in_list"),
        ("crop", None, "value_not_in_list"),
    ],
)
def test_literals(name: str, value: Any, error: str | None) -> None:
    graph = with_input("ImageScale", name, value, **{k: v for k, v in SCALE.items() if k != name})
    if error is None:
        check_graph(graph, CATALOGUE)
        # What is judged again later comes with a set, in which no list can be looked for.
        check_graph(graph, CATALOGUE, staged_files=frozenset({"a"}))
    else:
        assert first(graph, "n")["type"] == error


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("a", True),
        ({"__value__": ["a", "c"]}, True),
        ({"__value__": []}, True),
        ({"__value__": ["a", "z"]}, False),
        ({"__value__": [["a"]]}, False),
        ("z", False),
        (["a", "b"], False),  # reads as a link to node "a"
        (["a", "b", "c"], False),
    ],
)
def test_a_combo_with_several_choices(value: Any, accepted: bool) -> None:
    graph = with_input("Tagger", "tags", value)
    if accepted:
        check_graph(graph, CATALOGUE)
    else:
        assert refused(graph)["n"]


def test_a_combo_that_the_editor_fills_takes_any_value() -> None:
    check_graph(with_input("Tagger", "style", "as you like", tags="a"), CATALOGUE)
    # The route of the older form is the editor's alone: ComfyUI compares with the options there are, none.
    assert first(with_input("Tagger", "voice", "whatever", tags="a"), "n")["type"] == "value_not_in_list"


def test_a_number_of_either_type_is_compared_unconverted() -> None:
    check_graph(with_input("Needs", "number", 5), CATALOGUE)
    assert first(with_input("Needs", "number", -1), "n")["type"] == "value_smaller_than_min"
    assert first(with_input("Needs", "number", "5"), "n")["type"] == "invalid_input_type"


def test_hidden_and_unknown_inputs_are_ignored() -> None:
    graph = image_graph()
    graph["2"]["inputs"] |= {"prompt": 5, "unknown": {"a": [1, 2, 3]}, "images.x": 1}
    check_graph(graph, CATALOGUE)


def test_a_long_list_of_options_is_not_shown() -> None:
    found = first(with_input("ManyLoras", "lora_name", "../../etc/passwd"), "n")
    assert found["details"] == "lora_name: '../../etc/passwd' not in (list of length 21)"
    assert found["extra_info"]["input_config"] is None
    assert "secret-" not in json.dumps(found)


def test_a_huge_value_is_not_sent_back_whole() -> None:
    graph = image_graph()
    graph["1"]["inputs"]["width"] = "x" * 500_000
    assert len(json.dumps(refused(graph))) < 2_000


def resize(**inputs: Any) -> Nodes:
    given = {"input": ["image", 0], "mode": "size", "mode.width": 64} | inputs
    return with_input("Resize", "input", given.pop("input"), **given)


@pytest.mark.parametrize(
    ("graph", "error"),
    [
        (with_input("BatchImages", "images.image0", ["image", 0], **{"images.image1": ["image", 0]}), None),
        (with_input("BatchImages", "images.image0", ["values", 2]), "return_type_mismatch"),
        (with_input("BatchImages", "images.image0", ["gone", 0]), "bad_linked_input"),
        (resize(), None),
        (resize(**{"mode.width": "abc"}), "invalid_input_type"),
        (resize(**{"mode.width": 99999}), "value_bigger_than_max"),
        (resize(**{"mode": "file", "mode.like": "cat.png"}), None),
        (resize(**{"mode": "file", "mode.like": "../../etc/passwd"}), "custom_validation_failed"),
        (resize(**{"mode": "other", "mode.like": "unknown"}), None),
        (with_input("Resize", "input", ["image", 0], mode="size"), "required_input_missing"),
        (with_input("Resize", "input", ["image", 0], mode="file"), None),
        (with_input("BatchImages", "images.image50", ["values", 2]), None),
        (with_input("BatchImages", "images.image049", ["values", 2]), None),
        (with_input("BatchImages", "images.other", ["values", 2]), None),
        (with_input("BatchImages", "images.image49", ["values", 2]), "return_type_mismatch"),
        (resize(**{"rows.0.text": "a", "rows.0.n": 5}), None),
        (resize(**{"rows.0.n": "x"}), "invalid_input_type"),
        (resize(**{"rows": "x", "rows.": 1, "rows.0": 1, "rows.0.n.m": 1}), None),
        (resize(**{"future.part": {"any": 1}, "future.link": ["image", 0]}), None),
        (resize(**{"future.link": ["gone", 0]}), "bad_linked_input"),
        (resize(input=["gone", 0]), "bad_linked_input"),
    ],
)
def test_structured_inputs(graph: Nodes, error: str | None) -> None:
    if error is None:
        check_graph(graph, CATALOGUE)
    else:
        assert first(graph, "n")["type"] == error
