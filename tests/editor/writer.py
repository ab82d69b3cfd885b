"""Writes graphs as documents of the editor, without anything of the code that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")

#: An `/object_info` of a few classes.
CATALOGUE: Json = {
    "Make": {
        "input": {
            "required": {"seed": ["INT", {"default": 0}], "text": ["STRING", {"multiline": True}]},
            "optional": {"mask": ["MASK", {}], "kind": [["a", "b"], {}]},
        },
        "output": ["IMAGE", "MASK"],
        "output_name": ["IMAGE", "MASK"],
        "display_name": "Make a picture",
        "python_module": "nodes",
    },
    "Mix": {
        "input": {
            "required": {"one": ["IMAGE"], "share": ["FLOAT", {"default": 0.5}], "on": ["BOOLEAN", {}]},
            "optional": {"other": ["IMAGE", {}], "mask": ["MASK"]},
        },
        "output": ["IMAGE"],
        "python_module": "nodes",
    },
    "Count": {
        "input": {"required": {"value": ["INT", {"control_after_generate": True}]}},
        "output": ["INT", "FLOAT"],
        "python_module": "nodes",
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "ComfyUI"}]}},
        "output": [],
        "output_node": True,
        "python_module": "nodes",
    },
}


def inputs_of(class_type: str, catalogue: Mapping[str, Any] = CATALOGUE) -> dict[str, str]:
    """The inputs of a class by name, each with its type."""
    declared = catalogue[class_type]["input"]
    every = {**declared.get("required", {}), **declared.get("optional", {})}
    return {name: "COMBO" if isinstance(each[0], list) else each[0] for name, each in every.items()}


def is_controlled(class_type: str, name: str) -> bool:
    """Whether the editor shows behind a widget how it changes from run to run."""
    return (class_type, name) in (("Make", "seed"), ("Count", "value"))


class Sheet:
    """One canvas under the pen: the document's own, or that of a subgraph."""

    def __init__(self, number: Callable[[], int]) -> None:
        self.nodes: list[Json] = []
        self.links: list[Json] = []
        self.inputs: list[Json] = []
        self.outputs: list[Json] = []
        self._number = number

    def node(
        self, type_: str, inputs: Sequence[Json] = (), outputs: Iterable[str] = (), values: Any = None, **more: Any
    ) -> Json:
        """Add a node."""
        node: Json = {
            "id": self._number(),
            "type": type_,
            "mode": 0,
            "inputs": [{"link": None, **each} for each in inputs],
            "outputs": [{"name": each, "type": each, "links": []} for each in outputs],
            "properties": {},
            **({} if values is None else {"widgets_values": values}),
            **more,
        }
        self.nodes.append(node)
        return node

    def of_class(self, class_type: str, values: Mapping[str, Any], **more: Any) -> Json:
        """Add a node of a class of the catalogue, sockets before widgets."""
        inputs = inputs_of(class_type)
        slots: list[Json] = [{"name": name, "type": type_} for name, type_ in inputs.items() if type_ not in WIDGETS]
        stored = []
        for name, type_ in inputs.items():
            if type_ in WIDGETS:
                slots.append({"name": name, "type": type_, "widget": {"name": name}})
                stored.append(values.get(name))
                stored += ["randomize"] if is_controlled(class_type, name) else []
        return self.node(class_type, slots, CATALOGUE[class_type]["output"], stored, **more)

    def link(self, origin: Json | int, slot: int, target: Json | int, name: str | int) -> None:
        """Link an output to an input, given by its name; -10 and -20 are the subgraph's own inputs and outputs."""
        link_id = self._number()
        target_slot = name
        if isinstance(target, dict):
            names = [each["name"] for each in target["inputs"]]
            target_slot = names.index(name)
            target["inputs"][target_slot]["link"] = link_id
        else:
            self.outputs[int(name)]["linkIds"].append(link_id)
        if isinstance(origin, dict):
            origin["outputs"][slot]["links"].append(link_id)
        else:
            self.inputs[slot]["linkIds"].append(link_id)
        self.links.append(
            {
                "id": link_id,
                "origin_id": origin["id"] if isinstance(origin, dict) else origin,
                "origin_slot": slot,
                "target_id": target["id"] if isinstance(target, dict) else target,
                "target_slot": target_slot,
                "type": "*",
            }
        )


class Writer:
    """One document."""

    def __init__(self) -> None:
        self._last = 0
        self.root = Sheet(self._number)
        self.subgraphs: dict[str, Sheet] = {}

    def _number(self) -> int:
        self._last += 1
        return self._last

    def subgraph(self, name: str) -> Sheet:
        """Begin a subgraph; nodes stand for it by its name as their type."""
        self.subgraphs[name] = Sheet(self._number)
        return self.subgraphs[name]

    def document(self, *, links_as_lists: bool = True) -> Json:
        """The document as the editor saves it."""
        fields = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        links: list[Any] = self.root.links
        if links_as_lists:
            links = [[each[name] for name in fields] for each in links]
        return {
            "last_node_id": self._last,
            "last_link_id": self._last,
            "nodes": self.root.nodes,
            "links": links,
            "groups": [],
            "version": 0.4 if links_as_lists else 1,
            "definitions": {
                "subgraphs": [
                    {
                        "id": name,
                        "name": name,
                        "nodes": sheet.nodes,
                        "links": sheet.links,
                        "inputs": sheet.inputs,
                        "outputs": sheet.outputs,
                    }
                    for name, sheet in self.subgraphs.items()
                ]
            },
        }


def port(name: str, type_: str) -> Json:
    """An input or output of a subgraph."""
    return {"id": name, "name": name, "type": type_, "linkIds": []}
