"""The parameters of a template as JSON Schema, draft 2020-12."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core.texts.json_types import JsonObject
from workflows.templates.parameters import ANY, Parameter

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TYPES: dict[str, Any] = {"image": "string", ANY: ["string", "number", "boolean"]}


def json_schema(title: str, description: str, parameters: Iterable[Parameter]) -> JsonObject:
    """What a template takes: an object, each parameter one of its properties."""
    parameters = list(parameters)
    schema: dict[str, Any] = {"$schema": DRAFT, "title": title}
    if description:
        schema["description"] = description
    return schema | {
        "type": "object",
        "properties": {parameter.name: _property(parameter) for parameter in parameters},
        "required": [parameter.name for parameter in parameters if parameter.required],
        "additionalProperties": False,
    }


def _property(parameter: Parameter) -> JsonObject:
    schema: dict[str, Any] = {}
    if parameter.type == "choice":
        schema["enum"] = [name for choice in parameter.choices for name in (choice.key, *choice.aliases)]
    else:
        schema["type"] = _TYPES.get(parameter.type, parameter.type)
    if parameter.type in ("string", "image", ANY):
        schema["maxLength"] = parameter.max_chars
    if parameter.type == "image":
        schema["minLength"] = 1
        # What the file is that the text names; how the command line knows which values may be files of its machine.
        schema["contentMediaType"] = "image/*"
    bounds = {"minimum": parameter.minimum, "maximum": parameter.maximum, "multipleOf": parameter.multiple_of}
    schema |= {key: bound for key, bound in bounds.items() if bound is not None}
    notes = {"description": parameter.description or None, "default": parameter.default}
    return schema | {key: note for key, note in notes.items() if note is not None}
