"""Records and texts that another version, or another program, wrote down: what of them can be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import orjson


def known_fields(kind: type[Any], value: Any) -> dict[str, Any]:
    """Return those values of a stored object that a dataclass has fields for: a newer version may have written more.

    Raises: TypeError - it is no object.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"A stored {kind.__name__} is no object.")
    return {field.name: value[field.name] for field in fields(kind) if field.name in value}


def json_text(value: Any) -> str:
    """Return a value as JSON text with every digit of its integers."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        # Integers beyond 64 bits, which ComfyUI refuses or not as it likes.
        return json.dumps(value, separators=(",", ":"))


def whole_text(text: str) -> str:
    """Return the text as UTF-8 can hold it.

    Two halves of a surrogate that belong together become their character, and a half that stands alone becomes U+FFFD,
    the sign for what could not be read.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
