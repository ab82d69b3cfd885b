"""Puts today's node classes in the place of those of the past, as newer releases do before they check a graph."""

from __future__ import annotations

from typing import Any

from comfy.simulator.machine.node import NodeClasses

#: As `GET /node_replacements` shows them: the successor of the second one is no node of the simulator.
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
)


def replace_classes(prompt: dict[str, Any], classes: NodeClasses) -> None:
    """Change a graph in place."""
    known = {each["old_node_id"]: each for each in REPLACEMENTS if each["new_node_id"] in classes}
    for node in prompt.values():
        found = known.get(node.get("class_type"))
        if found is None or found["old_node_id"] in classes:
            continue
        node["class_type"] = found["new_node_id"]
        names = {each["old_id"]: each["new_id"] for each in found["input_mapping"] or ()}
        node["inputs"] = {names.get(name, name): value for name, value in node["inputs"].items()}
