"""Sidecars proposed from plain graphs."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from workflows.graphs.graph import Graph
from workflows.templates.library import SHIPPED, Library
from workflows.templates.proposal import propose
from workflows.templates.template import parse_template


def sampler(positive: list[Any], negative: list[Any], **inputs: Any) -> dict[str, Any]:
    links = {"model": ["1", 0], "positive": positive, "negative": negative, "latent_image": ["4", 0]}
    return {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20, "cfg": 7.5, "denoise": 1, **links, **inputs}}


def encoder(text: Any) -> dict[str, Any]:
    return {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["1", 1]}}


def graph(**others: dict[str, Any]) -> Graph:
    """The negative text comes first, so that order alone decides nothing."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "m.safetensors"}},
        "2": encoder("ugly"),
        "3": encoder("nice"),
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 640, "batch_size": 1}},
        "5": sampler(["3", 0], ["2", 0]),
        **{name.removeprefix("n"): node for name, node in others.items()},
    }


def parameters(plain: Graph) -> dict[str, dict[str, Any]]:
    """The proposed parameters, of a sidecar that is known to be right for its graph."""
    before = copy.deepcopy(plain)
    sidecar = propose(plain)
    assert plain == before
    # Nobody has to give anything, and the graph stays as it is but for the seeds.
    template = parse_template("t", plain, sidecar)
    seeds = {}
    for name, parameter in template.parameters.items():
        if parameter.random:
            node_id, input_name = parameter.targets[0]
            seeds[name] = plain[node_id]["inputs"][input_name]
    assert template.missing({}) == []
    filled = template.fill(seeds, draw=lambda lowest, highest: 1)
    assert filled.graph == plain
    return dict(sidecar["parameters"])


def targets(plain: Graph) -> dict[str, list[list[str]]]:
    return {name: parameter["target"] for name, parameter in parameters(plain).items()}


def test_the_usual_inputs_are_proposed() -> None:
    found = parameters(graph())

    assert set(found) == {
        *("negative_prompt", "prompt", "ckpt_name", "width", "height", "batch_size", "seed", "steps", "cfg", "denoise")
    }
    assert found["prompt"] == {"type": "string", "default": "nice", "target": [["3", "text"]]}
    assert found["negative_prompt"] == {"type": "string", "default": "ugly", "target": [["2", "text"]]}
    assert found["width"] == {"type": "integer", "minimum": 1, "default": 512, "target": [["4", "width"]]}
    assert found["cfg"] == {"type": "number", "minimum": 0, "default": 7.5, "target": [["5", "cfg"]]}
    assert found["seed"]["random"] is True
    assert "default" not in found["seed"]


def test_texts_are_found_through_nodes_that_pass_them_on() -> None:
    control = {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["3", 0], "negative": ["2", 0]}}
    found = targets(graph(n6=control, n5=sampler(["6", 0], ["6", 1])))
    assert (found["prompt"], found["negative_prompt"]) == ([["3", "text"]], [["2", "text"]])

    zeroed = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["3", 0]}}
    found = targets(graph(n6=zeroed, n5=sampler(["3", 0], ["6", 0])))
    assert found["prompt"] == [["3", "text"]]
    # An encoder that no sampler asks is a text, neither good nor bad.
    assert found["text"] == [["2", "text"]]

    linked = {"class_type": "PrimitiveString", "inputs": {"value": "linked"}}
    assert targets(graph(n3=encoder(["6", 0]), n6=linked))["prompt"] == [["6", "value"]]


def test_names_are_unique() -> None:
    second = sampler(["3", 0], ["2", 0], seed=1, steps=30)
    found = targets(graph(n6=second, n7=encoder("ugly"), n8=sampler(["3", 0], ["7", 0], seed=2)))

    assert found["steps"] == [["5", "steps"], ["8", "steps"]]
    assert found["steps_2"] == [["6", "steps"]]
    assert found["seed"] == [["5", "seed"], ["6", "seed"]]
    assert found["seed_2"] == [["8", "seed"]]
    # Equal texts in two places are two texts.
    assert found["negative_prompt_2"] == [["7", "text"]]


def test_both_texts_of_one_encoder_are_one_prompt_if_they_are_equal() -> None:
    inputs = {"clip_l": "a", "t5xxl": "a", "guidance": 3.5, "clip": ["1", 1]}
    found = targets(graph(n3={"class_type": "CLIPTextEncodeFlux", "inputs": inputs}))
    assert found["prompt"] == [["3", "clip_l"], ["3", "t5xxl"]]

    found = targets(graph(n3={"class_type": "CLIPTextEncodeFlux", "inputs": inputs | {"t5xxl": "b"}}))
    assert (found["prompt"], found["prompt_2"]) == ([["3", "clip_l"]], [["3", "t5xxl"]])


def test_pictures_are_proposed_and_links_are_not() -> None:
    first = {"class_type": "LoadImage", "inputs": {"image": "a.png"}}
    scale = {"class_type": "ImageScale", "inputs": {"image": ["6", 0], "width": ["4", 0]}}
    found = parameters(graph(n6=first, n7=copy.deepcopy(first), n8=scale))

    assert found["image"] == {"type": "image", "default": "a.png", "target": [["6", "image"]]}
    assert found["image_2"]["target"] == [["7", "image"]]
    assert found["width"]["target"] == [["4", "width"]]


def test_what_would_break_the_rules_is_left_alone() -> None:
    odd = {"width": 0, "height": True, "batch_size": "{{COUNT}}"}
    photo = {"class_type": "LoadImage", "inputs": {"image": "a.png [output]"}}
    sidecar = propose(graph(n4={"class_type": "EmptyLatentImage", "inputs": odd}, n6=photo, n3=encoder("x" * 20_001)))

    assert not {"width", "height", "batch_size", "image", "prompt"} & sidecar["parameters"].keys()


@pytest.mark.parametrize("name", Library([SHIPPED]).names())
def test_a_proposal_for_a_shipped_template_takes_what_it_was_filled_with(name: str) -> None:
    template = Library([SHIPPED]).get(name)
    given = {key: "a.png" for key, parameter in template.parameters.items() if parameter.required}
    parameters(template.fill(given, draw=lambda lowest, highest: 1).graph)
