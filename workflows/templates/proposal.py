"""Propose a sidecar for a plain exported graph: the inputs that are most likely worth a parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core.texts.json_types import JsonObject
from workflows.graphs.graph import Graph, is_link
from workflows.templates.fill import has_placeholder
from workflows.templates.parameters import MAX_SEED
from workflows.templates.sidecar import MAX_PARAMETERS, Sidecar

_SIZE: dict[str, Any] = {"type": "integer", "minimum": 1}
_SEED: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": MAX_SEED, "random": True}
#: input name -> parameter name, and what is known of it.
_INPUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "width": ("width", _SIZE),
    "height": ("height", _SIZE),
    "batch_size": ("batch_size", _SIZE),
    "steps": ("steps", _SIZE),
    "cfg": ("cfg", {"type": "number", "minimum": 0}),
    "seed": ("seed", _SEED),
    "noise_seed": ("seed", _SEED),
    "sampler_name": ("sampler_name", {"type": "string"}),
    "scheduler": ("scheduler", {"type": "string"}),
    "denoise": ("denoise", {"type": "number", "minimum": 0, "maximum": 1}),
    "ckpt_name": ("ckpt_name", {"type": "string"}),
    "unet_name": ("unet_name", {"type": "string"}),
}
#: Names under which equal values share one parameter.
_SHARED = frozenset(name for name, _ in _INPUTS.values())
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "string": (str,)}
_IMAGE_CLASSES = ("LoadImage", "LoadImageMask")
_TEXT_INPUTS = ("text", "clip_l", "clip_g", "t5xxl", "text_l", "text_g", "prompt", "value", "string")
_POSITIVE, _NEGATIVE = "prompt", "negative_prompt"
#: Inputs by which a sampler or guider takes what an encoder made of a text.
_ROLES = {"positive": _POSITIVE, "conditioning": _POSITIVE, "negative": _NEGATIVE}
#: What links into a sampler, as opposed to nodes that only pass conditioning on.
_SAMPLES = ("latent_image", "model")

#: parameter name, what is known of it, node id, input name.
_Found = tuple[str, dict[str, Any], str, str]


def propose(graph: Graph) -> JsonObject:
    """A sidecar, as `json.dump` writes it, whose parameters are aimed at nodes, so that the graph stays as it is.

    Equal values under one name share a parameter, but for texts and pictures; other repetitions are numbered.
    """
    parameters: dict[str, dict[str, Any]] = {}
    for name, known, node_id, input_name in [*_texts(graph), *_literals(graph)]:
        value = graph[node_id]["inputs"][input_name]
        described = {**known, "target": [[node_id, input_name]]}
        if not known.get("random"):
            described["default"] = value
        # What is a placeholder already, or would break its own rules (a height of 0), stays as it is.
        if has_placeholder(value) or Sidecar({"parameters": {name: described}}).faults:
            continue
        _add(parameters, name, described, value=value, graph=graph)
    return {"title": "", "description": "", "parameters": parameters}


def _add(
    parameters: dict[str, dict[str, Any]], name: str, described: dict[str, Any], *, value: Any, graph: Graph
) -> None:
    unique = name
    number = 1
    while unique in parameters:
        before = parameters[unique]
        node_id, input_name = before["target"][0]
        same = graph[node_id]["inputs"][input_name] == value
        # Texts and pictures that are equal by chance are still different things, unless they belong to one node.
        shared = name in _SHARED or node_id == described["target"][0][0]
        if same and shared:
            before["target"] += described["target"]
            return
        number += 1
        unique = f"{name}_{number}"
    if len(parameters) < MAX_PARAMETERS:
        parameters[unique] = described


def _literals(graph: Graph) -> Iterator[_Found]:
    for node_id, node in graph.items():
        for input_name, value in node["inputs"].items():
            if input_name == "image" and node["class_type"] in _IMAGE_CLASSES and isinstance(value, str):
                yield "image", {"type": "image"}, node_id, input_name
            if input_name in _INPUTS:
                name, known = _INPUTS[input_name]
                if isinstance(value, _PYTHON_TYPES[known["type"]]) and not isinstance(value, bool):
                    yield name, known, node_id, input_name


def _texts(graph: Graph) -> Iterator[_Found]:
    roles = _roles(graph)
    for node_id, node in graph.items():
        if node_id not in roles and "TextEncode" not in node["class_type"]:
            continue
        for input_name in _TEXT_INPUTS:
            if isinstance(node["inputs"].get(input_name), str):
                yield roles.get(node_id, "text"), {"type": "string"}, node_id, input_name


def _roles(graph: Graph) -> dict[str, str]:
    """By which side of a sampler each node is reached; what is reached from both sides counts as positive."""
    found: dict[str, str] = {}
    for role in (_POSITIVE, _NEGATIVE):
        pending = [
            (value[0], int(value[1]))
            for node in graph.values()
            for name, value in node["inputs"].items()
            if _ROLES.get(name) == role and is_link(value) and _is_sampler(node["inputs"])
        ]
        seen: set[tuple[str, int]] = set()
        while pending:
            node_id, slot = pending.pop()
            if node_id not in graph or (node_id, slot) in seen:
                continue
            seen.add((node_id, slot))
            found.setdefault(node_id, role)
            pending += _upstream(graph[node_id]["inputs"], slot)
    return found


def _is_sampler(inputs: dict[str, Any]) -> bool:
    return any(is_link(inputs.get(name)) for name in _SAMPLES)


def _upstream(inputs: dict[str, Any], slot: int) -> list[tuple[str, int]]:
    """The links to follow on. A node that takes both sides (a ControlNet) gives them back in the same order."""
    links = {name: (value[0], int(value[1])) for name, value in inputs.items() if is_link(value)}
    if "positive" in links and "negative" in links:
        side = ("positive", "negative")[slot] if slot in (0, 1) else ""
        return [links[side]] if side else []
    return list(links.values())
