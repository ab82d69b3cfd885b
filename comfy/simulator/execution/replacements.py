"""Puts today's node classes in the place of those of the past, as newer releases do before they check a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from comfy.simulator.machine.node import NodeClasses
from comfy.simulator.machine.running_graph import as_link

#: As `GET /node_replacements` shows them: the successor of the second one is no node of the simulator, and the third
#: one is none of ComfyUI's own. It moves outputs.
REPLACEMENTS: tuple[dict[str, Any], ...] = (
    {
        "new_node_id": "ControlNetLoader",
        "old_node_id": "T2IAdapterLoader",
        "old_widget_ids": None,
        "input_mapping": [{"new_id": "control_net_name", "old_id": "t2i_adapter_name"}],
        "output_mapping": None,
    },
    {
        "new_node_id": "SVD_img2vid_Conditioning",
        "old_node_id": "SDV_img2vid_Conditioning",
        "old_widget_ids": None,
        "input_mapping": None,
        "output_mapping": None,
    },
    {
        "new_node_id": "LoadImage",
        "old_node_id": "SimulatedLoadMaskAndImage",
        "old_widget_ids": ["picture"],
        "input_mapping": [{"new_id": "image", "old_id": "picture"}],
        "output_mapping": [{"new_idx": 1, "old_idx": 0}, {"new_idx": 0, "old_idx": 1}],
    },
)


def replace_classes(prompt: dict[str, Any], classes: NodeClasses) -> None:
    """Change a graph in place. Only inputs that a replacement names are kept.

    Raises KeyError where one of those is absent, which the server turns into a 500, as ComfyUI does.
    """
    known = {each["old_node_id"]: each for each in REPLACEMENTS if each["new_node_id"] in classes}
    for node_id, node in list(prompt.items()):
        if not isinstance(node, dict) or "inputs" not in node or node.get("class_type") in classes:
            continue
        found = known.get(node.get("class_type"))
        if found is not None:
            inputs = _moved(node["inputs"], found["input_mapping"] or ())
            prompt[node_id] = {**node, "class_type": found["new_node_id"], "inputs": inputs}
            _move_outputs(prompt, node_id, found["output_mapping"] or ())


def _moved(inputs: Mapping[str, Any], moves: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {move["new_id"]: move["set_value"] if "set_value" in move else inputs[move["old_id"]] for move in moves}


def _move_outputs(prompt: Mapping[str, Any], node_id: str, moves: Iterable[Mapping[str, int]]) -> None:
    slots = {move["old_idx"]: move["new_idx"] for move in moves}
    for node in prompt.values():
        for value in node["inputs"].values() if isinstance(node, dict) and "inputs" in node else ():
            if as_link(value) and value[0] == node_id:
                value[1] = slots.get(value[1], value[1])
