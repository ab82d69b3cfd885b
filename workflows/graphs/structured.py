"""Find the declaration behind `name.part` inputs, which ComfyUI's V3 schema spells out of templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from workflows.graphs.catalogue import DYNAMIC_COMBO, InputSpec, NodeSpec, input_spec


def nested_spec(node: NodeSpec, inputs: Mapping[str, Any], name: str) -> InputSpec | None:
    """The declaration of an input such as `images.image0` or `mode.width`; None if nothing known declares it.

    Covers growing lists (every part has the template's one input), choices with inputs of their own (those of the
    chosen option), slots with inputs, and groups of rows (`group.0.field`). Whether enough parts of a list are there is
    left to ComfyUI: that rule has changed between versions, what a given input accepts has not.
    """
    parts = name.split(".")
    root = spec = node.by_name.get(parts[0])
    depth = 1
    while spec is not None and depth < len(parts):
        if not spec.structured:
            return None
        template = spec.options.get("template")
        if not isinstance(template, Mapping):
            chosen = inputs.get(".".join(parts[:depth]))
            spec = _declared(_inputs_of(spec, chosen), parts[depth])
        elif "input" in template:
            spec = _declared(template["input"], None) if _grows(template, parts[depth]) else None
        else:
            depth += 1  # the row's number
            spec = _declared(template, parts[depth]) if depth < len(parts) else None
        depth += 1
    if spec is None or root is None:
        return None
    return replace(input_spec(name, [spec.type, spec.options], required=False), is_plain=root.is_plain)


def missing_inputs(node: NodeSpec, inputs: Mapping[str, Any]) -> list[str]:
    """The inputs that a class needs and that are not there, those of a chosen option among them."""
    missing = []
    if not inputs.keys() >= node.needed:
        missing = [spec.name for spec in node.inputs if spec.name in node.needed and spec.name not in inputs]
    for spec in node.dynamic_choices:
        missing += _missing_of(spec, inputs)
    return missing


def _missing_of(spec: InputSpec, inputs: Mapping[str, Any]) -> Iterator[str]:
    chosen = inputs.get(spec.name)
    declared = _inputs_of(spec, chosen) if isinstance(chosen, str) else None
    required = declared.get("required") if isinstance(declared, Mapping) else None
    for name, info in (required if isinstance(required, Mapping) else {}).items():
        part = input_spec(f"{spec.name}.{name}", info, required=True)
        if part.type == DYNAMIC_COMBO:
            yield from _missing_of(part, inputs)
        elif part.name not in inputs and not part.structured:
            yield part.name


def _grows(template: Mapping[str, Any], part: str) -> bool:
    """Whether a growing list has a part of this name; ComfyUI looks at no other."""
    names, prefix, most = template.get("names"), template.get("prefix"), template.get("max")
    if isinstance(names, (list, tuple)):
        return part in names
    if not isinstance(prefix, str):
        return True
    number = part.removeprefix(prefix)
    if not (part.startswith(prefix) and number.isdecimal() and number.isascii() and str(int(number[:9])) == number):
        return False
    return not isinstance(most, int) or int(number) < most


def _inputs_of(spec: InputSpec, chosen: Any) -> Any:
    """The inputs a slot brings, or those of the option that was chosen."""
    options = spec.options.get("options")
    for option in options if isinstance(options, (list, tuple)) else ():
        if isinstance(option, Mapping) and option.get("key") == chosen:
            return option.get("inputs")
    return spec.options.get("inputs")


def _declared(inputs: Any, name: str | None) -> InputSpec | None:
    """An input of `{"required": {...}, "optional": {...}}` by name; with no name, the first."""
    for category in ("required", "optional"):
        declared = inputs.get(category) if isinstance(inputs, Mapping) else None
        if isinstance(declared, Mapping) and declared and (name is None or name in declared):
            found = next(iter(declared)) if name is None else name
            return input_spec(found, declared[found], required=False)
    return None
