"""Schemas within the OpenAPI document, as its page needs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def body_schema(document: Mapping[str, Any], operation: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Return the schema of a JSON body, or of a form, and whether it may also come in an envelope."""
    content = operation.get("requestBody", {}).get("content", {})
    for media in content.values():
        schema = media["schema"]
        is_enveloped = "anyOf" in schema
        return resolved(document, schema["anyOf"][0] if is_enveloped else schema), is_enveloped
    return {}, False


def resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema without the null of an optional field, and with what a reference means."""
    options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    inner = options[0] if len(options) == 1 else schema
    if "$ref" in inner:
        name = inner["$ref"].rpartition("/")[2]
        found: Mapping[str, Any] = document["components"]["schemas"][name]
        return {**found, "description": schema.get("description") or found.get("description", "")}
    return {**inner, "description": schema.get("description") or inner.get("description", "")}
