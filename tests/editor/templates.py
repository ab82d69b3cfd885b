"""The official workflow templates, and an `/object_info` that is inferred from them.

No package holds ComfyUI's own `/object_info`. But many nodes of templates tell the names of all their widgets with
their values in order, and all tell the names and types of their sockets: enough to lay the same node out again. Classes
of which no node tells enough stay unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

#: Packages with documents, and the folder of each that has them.
PACKAGES = {"comfyui_workflow_templates_json": "templates", "comfyui_subgraph_blueprints": "blueprints"}
CONTROLS = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
EDITORS_OWN = frozenset({"Note", "MarkdownNote", "PrimitiveNode", "Reroute"})
_DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
_OPTIONAL = 7
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "CURVE")
#: Widgets that the editor adds, which its extensions know by the class.
_ADDED = ("upload", "audioUI", "preview_text", "preview_mode")
_UNFIT = ("Load3D", "Load3DAdvanced")
#: Its options are widgets of the editor's own.
_OWN_OPTIONS = "CustomCombo"

Json = dict[str, Any]


def lacking() -> list[str]:
    """The packages that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def documents() -> dict[str, Json]:
    """All documents of the packages, by the names of their files."""
    found: dict[str, Json] = {}
    for package, folder in PACKAGES.items():
        for entry in sorted((files(package) / folder).iterdir(), key=lambda each: each.name):
            if entry.name.endswith(".json"):
                value = json.loads(entry.read_text(encoding="utf-8"))
                if isinstance(value, dict) and "nodes" in value:
                    found[entry.name] = value
    return found


def canvases(document: Json) -> list[Json]:
    """A document and its subgraphs."""
    return [document, *((document.get("definitions") or {}).get("subgraphs") or [])]


def nodes(document: Json) -> Iterator[Json]:
    """All nodes that are of a class."""
    parts = canvases(document)
    ids = {each.get("id") for each in parts[1:]}
    for part in parts:
        for node in part["nodes"]:
            if node["type"] not in ids and node["type"] not in EDITORS_OWN:
                yield node


@dataclass
class _Input:
    type: Any
    is_widget: bool = False
    is_optional: bool = False
    has_control: bool = False
    values: list[Any] = field(default_factory=list)
    #: Of a dynamic combo, by option.
    options: dict[Any, dict[str, _Input]] = field(default_factory=dict)
    #: Of a growing group, the names of its inputs.
    members: list[str] = field(default_factory=list)


def infer(found: Sequence[Json]) -> Json:
    """Return the `/object_info` of all classes whose nodes tell enough."""
    by_class: dict[str, list[Json]] = {}
    for document in found:
        for node in nodes(document):
            by_class.setdefault(node["type"], []).append(node)
    info = {}
    for name, every in by_class.items():
        told = [(node, values) for node in every if (values := _told(node)) is not None]
        if name == _OWN_OPTIONS:
            info[name] = _described(name, every, {"choice": _Input("COMBO", is_widget=True)})
        elif told and name not in _UNFIT:
            info[name] = _described(name, [node for node, _ in told], _inputs(told))
    return info


def _told(node: Json) -> list[tuple[str, Any]] | None:
    """The widgets of a node in order, with their values; None if it does not tell them."""
    named, stored = node.get("widgets_values_named"), node.get("widgets_values")
    if isinstance(named, dict):
        return list(named.items())
    rest = list(stored) if isinstance(stored, list) else []
    found: list[tuple[str, Any]] = []
    for slot in node.get("inputs") or []:
        if slot.get("widget"):
            if not rest:
                return None
            found.append((slot["name"], rest.pop(0)))
            if rest and rest[0] in CONTROLS and slot["type"] in ("INT", "FLOAT"):
                found.append(("control_after_generate", rest.pop(0)))
    return None if rest else found


def _inputs(told: Sequence[tuple[Json, list[tuple[str, Any]]]]) -> dict[str, _Input]:
    inputs: dict[str, _Input] = {}
    for node, values in told:
        by_name = dict(values)
        before: _Input | None = None
        for name, value in values:
            if name.endswith("control_after_generate") and before is not None:
                before.has_control = True
            elif name not in ("control_filter_list", *_ADDED):
                before = _place(inputs, name, by_name)
                before.is_widget = True
                before.type = before.type or _type_of(value)
                before.values += [] if value in before.values else [value]
        for slot in node.get("inputs") or []:
            _learn_slot(inputs, slot, by_name)
    return inputs


def _place(inputs: dict[str, _Input], name: str, by_name: Mapping[str, Any]) -> _Input:
    """The input of that name, in the option of the dynamic combo that it belongs to."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        parent = ".".join(parts[:depth])
        if parent not in by_name:
            return inputs.setdefault(".".join(parts[depth - 1 :]), _Input(None))
        holder = inputs.setdefault(parts[depth - 1], _Input(_DYNAMIC, is_widget=True))
        holder.type = _DYNAMIC
        inputs = holder.options.setdefault(by_name[parent], {})
    return inputs.setdefault(parts[-1], _Input(None))


def _learn_slot(inputs: dict[str, _Input], slot: Json, by_name: Mapping[str, Any]) -> None:
    name, type_ = slot["name"], slot.get("type")
    if name in _ADDED:
        return
    if slot.get("widget") or name in by_name:
        if name in by_name:
            known = _place(inputs, name, by_name)
            known.type = type_ if known.type != _DYNAMIC else _DYNAMIC
            if type_ == _DYNAMIC:
                known.options.setdefault(by_name[name], {})
        return
    group, _, member = name.rpartition(".")
    is_optional = slot.get("shape") == _OPTIONAL
    if group and group not in by_name:
        each = _place(inputs, group, by_name)
        each.type = ("group", type_)
        each.members += [] if member in each.members else [member]
    else:
        each = _place(inputs, name, by_name)
        each.type = type_
    each.is_optional = is_optional and not (group and group not in by_name)


def _type_of(value: Any) -> Any:
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, (int, float)):
        return "FLOAT"
    return "STRING" if isinstance(value, str) else None


def _described(name: str, every: Sequence[Json], inputs: dict[str, _Input]) -> Json:
    declared = _declared(inputs)
    if any("upload" in (node.get("widgets_values_named") or {}) for node in every):
        first = next(each for each in declared["required"].values() if each[0] in ("COMBO", "STRING"))
        first[0], first[1] = "COMBO", {"options": [], "audio_upload" if name == "LoadAudio" else "image_upload": True}
    outputs = every[0].get("outputs") or []
    return {
        "input": declared,
        "output": [each.get("type") or "*" for each in outputs],
        "output_is_list": [False] * len(outputs),
        "output_name": [str(each.get("name") or "") for each in outputs],
        "name": name,
        "display_name": name,
        "description": "",
        "category": "templates",
        "output_node": not outputs,
        "python_module": "nodes",
    }


def _declared(inputs: Mapping[str, _Input]) -> Json:
    declared: Json = {"required": {}, "optional": {}}
    for name, each in inputs.items():
        declared["optional" if each.is_optional else "required"][name] = _spec(each)
    return declared


def _spec(each: _Input) -> list[Any]:
    if isinstance(each.type, tuple):
        return _group(each.type[1], each.members)
    options: Json = {}
    if each.is_widget:
        options["control_after_generate"] = each.has_control
    elif each.type in _WIDGETS:
        options["forceInput"] = True
    if each.type == "COMBO":
        options["options"] = [value for value in each.values if isinstance(value, (str, int, float))]
    elif each.type == _DYNAMIC:
        options["options"] = [{"key": key, "inputs": _declared(inner)} for key, inner in each.options.items()]
    return [each.type or "*", options]


def _group(type_: Any, names: list[str]) -> list[Any]:
    stem = names[0].rstrip("0123456789")
    template: Json = {"input": {"required": {"value": [type_, {"forceInput": True}]}}, "min": 1}
    if all(name.rstrip("0123456789") == stem and name != stem for name in names):
        template |= {"prefix": stem, "max": 50}
    else:
        template |= {"names": names}
    return ["COMFY_AUTOGROW_V3", {"template": template}]
