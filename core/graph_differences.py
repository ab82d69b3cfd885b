"""Graphs that are nearly the same: one of them whole, and of each other one what is different.

What is different is a JSON list: `{node id: {input name: value}}`, and, where more than inputs is different,
`{node id: the whole node}`. Both graphs have the same nodes, in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from core.texts.stored_json import json_text

#: `{node id: {"class_type", "inputs", ...}}`.
Graph = Mapping[str, Mapping[str, Any]]


def differences(base: Graph, graph: Graph) -> list[Any]:
    """Return what a graph has different from another one with the same nodes.

    A node that is the same object in both is not looked into.
    """
    inputs: dict[str, dict[str, Any]] = {}
    nodes: dict[str, Any] = {}
    for node_id, node in graph.items():
        other = base[node_id]
        if node is other:
            continue
        if not _differ_in_inputs_alone(other, node):
            nodes[node_id] = node
            continue
        known = other["inputs"]
        changed = {name: value for name, value in node["inputs"].items() if not is_same(known[name], value)}
        if changed:
            inputs[node_id] = changed
    return [inputs, nodes] if nodes else [inputs]


def with_differences(base: Graph, text: str) -> dict[str, Any]:
    """Return the graph whose differences from `base` this is, as JSON text; the base stays as it is."""
    inputs, *nodes = json.loads(text)
    graph: dict[str, Any] = dict(base)
    for node_id, changed in inputs.items():
        node = graph[node_id]
        graph[node_id] = {**node, "inputs": {**node["inputs"], **changed}}
    for whole in nodes:
        graph.update(whole)
    return graph


def is_same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are written alike: `1`, `1.0` and `true` are three values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (dict, list, float)):
        return json_text(one) == json_text(other)
    return bool(one == other)


def _differ_in_inputs_alone(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if one.keys() != other.keys() or list(one["inputs"]) != list(other["inputs"]):
        return False
    return all(is_same(one[part], other[part]) for part in one if part != "inputs")
