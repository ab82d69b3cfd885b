"""Filling templates: what values do in a graph, and which of them are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from core.errors import ConfigurationError, InvalidRequest
from workflows.templates.fill import with_random_integers
from workflows.templates.template import Template, parse_template

SIDECAR: dict[str, Any] = {
    "title": "Test",
    "parameters": {
        "prompt": {"type": "string", "max_length": 100},
        "width": {"type": "integer", "minimum": 64, "maximum": 2048, "multiple_of": 8, "default": 512},
        "cfg": {"type": "number", "minimum": 0, "multiple_of": 0.1, "default": 7.0},
        "tiled": {"type": "boolean", "default": False},
        "seed": {"type": "integer", "minimum": 5, "random": True},
        "photo": {"type": "image", "default": "a.png"},
        "sampler": {"type": "choice", "choices": ["euler", "heun", 3], "default": "euler"},
        "style": {
            "type": "choice",
            "default": "eu",
            "choices": {
                "eu": {"aliases": [0, "0"], "value": "oak", "values": {"STYLE_IMAGE": "eu.png", "strength": 0.5}},
                "jp": {"aliases": [1, "1"], "value": "bamboo", "values": {"style_image": "jp.png", "STRENGTH": 1}},
            },
        },
        "steps": {"type": "integer", "required": False, "target": [["2", "steps"], ["3", "steps"]]},
    },
}
GRAPH: dict[str, Any] = {
    "1": {
        "class_type": "A",
        "inputs": {
            "text": "{{PROMPT}}",
            "longer": "a {{prompt}} of {{ STYLE }}, {{WIDTH}} wide, {{TILED}} {{CFG}}",
            "width": "{{WIDTH}}",
            "cfg": "{{CFG}}",
            "tiled": "{{TILED}}",
            "seed": "{{SEED}}",
            "nested": {"__value__": ["{{STRENGTH}}", "{{STYLE_IMAGE}}"]},
            "photo": "{{PHOTO}}",
            "sampler": "{{SAMPLER}}",
            "brackets": "{{ not one }} {one} {{}}",
        },
        "_meta": {"title": "makes {{PROMPT}}"},
    },
    "2": {"class_type": "B", "inputs": {"from": ["1", 0], "steps": 20}},
    "3": {"class_type": "B", "inputs": {"from": ["1", 0]}},
}
TEMPLATE = parse_template("test", GRAPH, SIDECAR)


def always(value: int) -> Callable[[int, int], int]:
    return lambda lowest, highest: value


def fill(values: dict[str, Any], *, template: Template = TEMPLATE, coerce: bool = False) -> dict[str, dict[str, Any]]:
    graph = template.fill(values, draw=always(77), coerce=coerce).graph
    return {node_id: node["inputs"] for node_id, node in graph.items()}


def bare(**inputs: Any) -> Template:
    return parse_template("bare", {"1": {"class_type": "A", "inputs": inputs}})


def refusal(values: dict[str, Any], *, template: Template = TEMPLATE, coerce: bool = False) -> str:
    with pytest.raises(InvalidRequest) as caught:
        template.fill(values, draw=always(77), coerce=coerce)
    return caught.value.message


def test_values_keep_their_types_and_become_text_inside_text() -> None:
    inputs = fill({"prompt": 'a "chair"\n{{WIDTH}}', "width": 640, "tiled": True, "style": 1, "steps": 9})

    assert inputs["1"] == {
        "text": 'a "chair"\n{{WIDTH}}',
        "longer": 'a a "chair"\n{{WIDTH}} of bamboo, 640 wide, true 7.0',
        "width": 640,
        "cfg": 7.0,
        "tiled": True,
        "seed": 77,
        "nested": {"__value__": [1, "jp.png"]},
        "photo": "a.png",
        "sampler": "euler",
        "brackets": "{{ not one }} {one} {{}}",
    }
    assert inputs["2"] == {"from": ["1", 0], "steps": 9}
    assert inputs["3"] == {"from": ["1", 0], "steps": 9}


def test_what_is_left_out_leaves_the_graph_as_it_is() -> None:
    before = copy.deepcopy(GRAPH)
    inputs = fill({"prompt": "x"})

    assert inputs["2"]["steps"] == 20
    assert "steps" not in inputs["3"]
    assert before == GRAPH


def test_the_final_values_are_told() -> None:
    bounds: list[tuple[int, int]] = []

    def draw(lowest: int, highest: int) -> int:
        bounds.append((lowest, highest))
        return 123

    filled = TEMPLATE.fill({"PROMPT": "x", "style": "1"}, draw=draw)

    assert filled.values == {
        "prompt": "x",
        "width": 512,
        "cfg": 7.0,
        "tiled": False,
        "seed": 123,
        "photo": "a.png",
        "sampler": "euler",
        "style": "jp",
    }
    assert bounds == [(5, 2**53 - 1)]
    assert filled.graph["1"]["_meta"] == {"title": "makes x"}


def test_each_random_int_is_drawn_on_its_own() -> None:
    drawn = iter(range(100))
    template = bare(a="__RANDOM_INT__", b="x__RANDOM_INT__-__RANDOM_INT__", c=["__RANDOM_INT__"], d="{{PROMPT}}")
    inputs = template.fill({"prompt": "__RANDOM_INT__"}, draw=lambda lowest, highest: next(drawn) + highest).graph["1"]

    top = 2**32 - 1
    assert inputs["inputs"] == {"a": top, "b": f"x{top + 1}-{top + 2}", "c": [top + 3], "d": "__RANDOM_INT__"}


def test_random_integers_of_a_graph_that_is_no_template() -> None:
    drawn = iter(range(9))
    graph: dict[str, Any] = {
        "1": {"class_type": "A", "inputs": {"a": "__RANDOM_INT__", "b": ["x-__RANDOM_INT__.png", {"c": "{{PROMPT}}"}]}},
        "2": {"class_type": "__RANDOM_INT__", "inputs": {"a": ["1", 0]}, "_meta": {"title": "n__RANDOM_INT__"}},
    }

    filled = with_random_integers(graph, draw=lambda lowest, highest: next(drawn) + lowest + highest)

    top = 2**32 - 1
    assert filled["1"]["inputs"] == {"a": top, "b": [f"x-{top + 1}.png", {"c": "{{PROMPT}}"}]}
    assert filled["2"] == {"class_type": "__RANDOM_INT__", "inputs": {"a": ["1", 0]}, "_meta": {"title": f"n{top + 2}"}}
    assert graph["1"]["inputs"]["a"] == "__RANDOM_INT__", "the client's own body stays"


@pytest.mark.parametrize("graph", [None, 5, [], "__RANDOM_INT__", {}, {"1": 5, "2": {"inputs": {"a": "b"}}}])
def test_nothing_to_draw(graph: Any) -> None:
    assert with_random_integers(graph, draw=lambda _lowest, _highest: 1) is graph


def test_a_random_seed_may_be_asked_for_by_name() -> None:
    assert fill({"prompt": "x", "seed": "__RANDOM_INT__"})["1"]["seed"] == 77
    assert fill({"prompt": "x", "seed": 5})["1"]["seed"] == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Parameter prompt is missing."),
        ({"prompt": "x", "sed": 1}, "Unknown parameter 'sed' for test; there are: prompt, width, cfg, tiled, seed"),
        ({"prompt": "x", "Prompt": "y"}, "Parameter prompt is given twice."),
        ({"prompt": 5}, "Parameter prompt cannot be 5: it must be text."),
        ({"prompt": None}, "Parameter prompt cannot be null: it must be text."),
        ({"prompt": ["4", 0]}, "Parameter prompt cannot be a list: it must be text."),
        ({"prompt": "x" * 101}, "it has 101 characters, at most 100 are allowed."),
        ({"prompt": "a\0b"}, "Parameter prompt cannot be 'a\\x00b': NUL and halves of surrogate pairs are no text."),
        ({"prompt": "\ud800"}, "Parameter prompt cannot be '\\ud800': NUL"),
        ({"prompt": "x", "width": True}, "Parameter width cannot be true: it must be an integer."),
        ({"prompt": "x", "width": "512"}, "Parameter width cannot be '512': it must be an integer."),
        ({"prompt": "x", "width": 512.5}, "Parameter width cannot be 512.5: it must be an integer."),
        ({"prompt": "x", "width": 8}, "Parameter width cannot be 8: it must be from 64 to 2048."),
        ({"prompt": "x", "width": 4096}, "Parameter width cannot be 4096: it must be from 64 to 2048."),
        ({"prompt": "x", "width": 513}, "Parameter width cannot be 513: it must be a multiple of 8."),
        ({"prompt": "x", "cfg": -1}, "Parameter cfg cannot be -1: it must be 0 or more."),
        ({"prompt": "x", "cfg": 0.25}, "Parameter cfg cannot be 0.25: it must be a multiple of 0.1."),
        ({"prompt": "x", "cfg": float("nan")}, "Parameter cfg cannot be nan: it must be a number."),
        ({"prompt": "x", "cfg": float("inf")}, "Parameter cfg cannot be inf: it must be a number."),
        ({"prompt": "x", "tiled": 1}, "Parameter tiled cannot be 1: it must be true or false."),
        ({"prompt": "x", "sampler": "ddim"}, "cannot be 'ddim': choose one of 'euler', 'heun', 3."),
        ({"prompt": "x", "sampler": 3.5}, "cannot be 3.5: choose one of"),
        ({"prompt": "x", "sampler": "3"}, "cannot be '3': choose one of"),
        ({"prompt": "x", "style": True}, "Parameter style cannot be true: choose one of 'eu', 'jp'."),
        ({"prompt": "x", "style": {}}, "Parameter style cannot be an object: choose one of 'eu', 'jp'."),
        ({"prompt": "x", "seed": 4}, "Parameter seed cannot be 4: it must be 5 or more."),
        ({"prompt": "x", "photo": "../a.png"}, "the name of a file below the input folder, a URL, or a data URI."),
        ({"prompt": "x", "photo": "file:///etc/passwd"}, "it must be the name of a file below the input folder"),
        ({str(number): 1 for number in range(201)}, "There are 201 parameters; at most 200 are accepted."),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


def test_refusals_are_short_however_long_the_value() -> None:
    assert len(refusal({"prompt": "x" * 10_000_000})) < 200
    assert len(refusal({"prompt": "x", "y" * 100_000: 1})) < 300


@pytest.mark.parametrize("photo", ["rooms/1.png", "http://host/a.png", "https://host/a?b=c"])
def test_a_picture_is_a_file_name_or_a_url(photo: str) -> None:
    assert fill({"prompt": "x", "photo": photo})["1"]["photo"] == photo


def test_a_whole_float_is_an_integer() -> None:
    width = fill({"prompt": "x", "width": 640.0})["1"]["width"]

    assert (width, type(width)) == (640, int)


def test_a_form_sends_text() -> None:
    form = {"prompt": "12", "width": "640", "cfg": "2.5", "tiled": "true", "seed": "99", "sampler": "3", "style": "1"}
    inputs = fill(form, coerce=True)["1"]

    assert inputs["text"] == "12"
    assert (inputs["width"], inputs["cfg"], inputs["tiled"], inputs["seed"]) == (640, 2.5, True, 99)
    assert (inputs["sampler"], inputs["photo"]) == (3, "a.png")
    for name, text in (
        ("width", "6_4"),
        ("width", "\u0666\u0664"),
        ("width", "9" * 5000),
        ("cfg", "nan"),
        ("cfg", "1e9999"),
    ):
        assert f"Parameter {name} cannot be " in refusal({"prompt": "x", name: text}, coerce=True)


def test_without_a_sidecar_each_placeholder_is_required() -> None:
    template = bare(a="{{PROMPT}}", b="{{WIDTH}} {{Thing}}", c="{{SEED}}")

    assert list(template.parameters) == ["prompt", "width", "thing", "seed"]
    assert template.missing({"prompt": "x", "THING": 1}) == ["width", "seed"]
    assert refusal({"prompt": "x", "width": 1, "thing": 1}, template=template) == "Parameter seed is missing."
    for wrong in ({"width": 0}, {"prompt": 5}, {"seed": 2**64}, {"seed": -1}, {"thing": ["1", 0]}, {"thing": None}):
        values = {"prompt": "x", "width": 1, "thing": 1, "seed": 1} | wrong
        assert f"Parameter {next(iter(wrong))} cannot be " in refusal(values, template=template)
    for thing in ("text", 5, 0.5, True):
        values = {"prompt": "x", "width": 1, "thing": thing, "seed": 2**64 - 1}
        assert fill(values, template=template)["1"]["c"] == 2**64 - 1


def test_a_placeholder_that_nothing_fills_is_named() -> None:
    sidecar = {"parameters": {"thing": {"type": "string", "required": False}}}
    template = parse_template("t", {"1": {"class_type": "A", "inputs": {"a": "x {{THING}}"}}}, sidecar)

    assert refusal({}, template=template) == "Nothing was given for {{THING}} in the workflow."


def test_deep_values_are_filled_without_recursion() -> None:
    deep: Any = "{{PROMPT}}"
    for _ in range(5000):
        deep = [deep]
    inner = fill({"prompt": "x"}, template=bare(a=deep))["1"]["a"]
    while isinstance(inner, list):
        (inner,) = inner
    assert inner == "x"


def test_a_graph_may_be_wrapped() -> None:
    graph = {"1": {"class_type": "A", "inputs": {"a": "{{PROMPT}}"}}}
    wrapped = {"input": {"handler": "RawWorkflow", "webhook_extra_params": {}, "workflow_json": graph}}

    assert parse_template("t", wrapped).graph == graph
    # A node may have the id `input`.
    assert list(parse_template("t", {"input": graph["1"]}).graph) == ["input"]


def test_the_schema_says_what_fill_takes() -> None:
    schema = TEMPLATE.json_schema()

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["title"], schema["type"], schema["additionalProperties"]) == ("Test", "object", False)
    assert schema["required"] == ["prompt"]
    properties = schema["properties"]
    assert properties["prompt"] == {"type": "string", "maxLength": 100}
    assert properties["width"] == {"type": "integer", "minimum": 64, "maximum": 2048, "multipleOf": 8, "default": 512}
    assert properties["style"] == {"enum": ["eu", 0, "0", "jp", 1, "1"], "default": "eu"}
    photo = {"type": "string", "maxLength": 20_000, "minLength": 1, "contentMediaType": "image/*", "default": "a.png"}
    assert properties["photo"] == photo
    for choice in properties["style"]["enum"]:
        fill({"prompt": "x", "style": choice})


@pytest.mark.parametrize(
    ("graph", "sidecar", "reason"),
    [
        ([], None, "must be an object"),
        ({"nodes": [], "links": []}, None, "Export (API)"),
        ({"1": {"class_type": "A", "inputs": {"a": ["2", 0]}}}, None, "links to node '2', which is missing"),
        ({"1": {"class_type": "A", "inputs": {"a": ["1", 0]}}}, None, "in a circle"),
        ({"1": {"class_type": "{{A}}", "inputs": {}}}, None, "a class_type takes no placeholder"),
        ({"1": {"class_type": "A", "inputs": {"a": "{{X}}"}}}, {}, "{{X}} has no parameter in the sidecar"),
    ],
)
def test_a_template_that_cannot_work_is_refused(graph: Any, sidecar: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_template("t", graph, sidecar)

    assert reason in caught.value.message
