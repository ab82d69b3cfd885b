"""The body by which a browser's reader signs in."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from api.schema.blocks import Strict

MAX_KEY_CHARS = 512
SESSION_EXAMPLE: dict[str, Any] = {"key": "comfyline_..."}


class SessionBody(Strict):
    """A key that a browser is to keep."""

    model_config = ConfigDict(json_schema_extra={"examples": [SESSION_EXAMPLE]})

    key: str = Field(min_length=1, max_length=MAX_KEY_CHARS, description="An API key.")
