"""Find the declaration behind `name.part` inputs, which ComfyUI's V3 schema spells out of templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflows.catalogue import InputSpec, NodeSpec, input_spec


def nested_spec(node: NodeSpec, inputs: Mapping[str, Any], name: str) -> InputSpec | None:
    """The declaration of an input such as `images.image0` or `mode.width`; None if nothing known declares it.

    Covers growing lists (every part has the template's one input), choices with inputs of their own (those of the
    chosen option), slots with inputs, and groups of rows (`group.0.field`). Whether all of a template's inputs are
    there is left to ComfyUI: that rule has changed between versions, what a given input accepts has not.
    """
    parts = name.split(".")
    spec = node.by_name.get(parts[0])
    depth = 1
    while spec is not None and depth < len(parts):
        if not spec.structured:
            return None
        template = spec.options.get("template")
        if not isinstance(template, Mapping):
            chosen = inputs.get(".".join(parts[:depth]))
            spec = _declared(_inputs_of(spec, chosen), parts[depth])
        elif "input" in template:
            spec = _declared(template["input"], None)
        else:
            depth += 1  # the row's number
            spec = _declared(template, parts[depth]) if depth < len(parts) else None
        depth += 1
    return None if spec is None else input_spec(name, [spec.type, spec.options], required=False)


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
