"""Modifiers, with the values that their callers rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigurationError, InvalidRequest, InvalidWorkflow
from workflows.templates.library import SHIPPED, Library
from workflows.templates.modifiers import build, draw_between

LIBRARY = Library([SHIPPED])
GRAPH: dict[str, Any] = {"1": {"class_type": "A", "inputs": {"a": "{{PROMPT}}", "b": "__RANDOM_INT__"}}}


def values(modifier: str, modifications: dict[str, Any]) -> dict[str, Any]:
    return build(modifier, modifications, LIBRARY, "sd3", draw=lambda lowest, highest: 7).values


def test_text2image_has_its_defaults() -> None:
    assert values("Text2Image", {"prompt": "x"}) == {
        "prompt": "x",
        "negative_prompt": "",
        "width": 512,
        "height": 512,
        "steps": 20,
        "seed": 7,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        "ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors",
    }


def test_image2image_has_its_defaults() -> None:
    assert values("Image2Image", {"prompt": "x", "input_image": "https://host/a.png"}) == {
        "prompt": "x",
        "negative_prompt": "",
        "input_image": "https://host/a.png",
        "steps": 20,
        "seed": 7,
        "sampler_name": "dpmpp_2m",
        "scheduler": "normal",
        "denoise": 0.87,
        "ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors",
    }


def test_raw_workflow_fills_the_default_workflow() -> None:
    given = {"prompt": "a beautiful landscape", "width": 1024, "height": 1024, "steps": 20, "seed": 123456789}
    graph = build("RawWorkflow", given, LIBRARY, "sd3").graph

    assert graph["2"]["inputs"]["text"] == "a beautiful landscape"
    assert graph["5"]["inputs"]["seed"] == 123456789


def test_raw_workflow_runs_the_graph_it_is_given() -> None:
    filled = build("RawWorkflow", {"workflow_json": GRAPH, "prompt": 'a "b"'}, LIBRARY, None)

    assert filled.graph["1"]["inputs"]["a"] == 'a "b"'
    assert 0 <= filled.graph["1"]["inputs"]["b"] < 2**32
    assert filled.values == {"prompt": 'a "b"'}


@pytest.mark.parametrize(
    ("modifier", "modifications", "message"),
    [
        ("text2image", {}, "Unknown modifier 'text2image'; there are: Text2Image, Image2Image, RawWorkflow."),
        ("Text2Image", {}, "Parameter prompt is missing."),
        ("Text2Image", {"prompt": "x", "sampler": "euler"}, "Unknown parameter 'sampler' for text2image; there are: p"),
        ("Image2Image", {"prompt": "x"}, "Parameter input_image is missing."),
        ("RawWorkflow", {"workflow_json": GRAPH}, "Parameter prompt is missing."),
        ("RawWorkflow", {"workflow_json": GRAPH, "prompt": "x", "y": 1}, "Unknown parameter 'y' for workflow_json;"),
        ("RawWorkflow", {}, "RawWorkflow needs modifications.workflow_json"),
    ],
)
def test_what_is_wrong_is_named(modifier: str, modifications: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        build(modifier, modifications, LIBRARY, None)

    assert caught.value.message.startswith(message)


def test_a_graph_that_is_none_is_told_as_such() -> None:
    with pytest.raises(InvalidWorkflow):
        build("RawWorkflow", {"workflow_json": []}, LIBRARY, None)
    many = {str(number): {"class_type": "A", "inputs": {"a": f"{{{{X{number}}}}}"}} for number in range(201)}
    with pytest.raises(InvalidRequest, match="201 placeholders"):
        build("RawWorkflow", {"workflow_json": many}, LIBRARY, None)


def test_a_missing_template_is_not_the_clients_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'text2image'"):
        build("Text2Image", {"prompt": "x"}, Library([tmp_path]), None)
    with pytest.raises(ConfigurationError, match="'no-such'"):
        build("RawWorkflow", {"prompt": "x"}, LIBRARY, "no-such")


def test_drawing_stays_between_its_ends() -> None:
    assert {draw_between(3, 5) for _ in range(500)} == {3, 4, 5}
    assert draw_between(4, 4) == 4
