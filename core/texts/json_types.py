"""Names for values whose fields are not ours to say: graphs, schemas, and what ComfyUI or a client's JSON holds."""

from __future__ import annotations

from typing import Any, TypeAlias

#: A JSON object as it was parsed, or as it will be written. What has fields of ours has a type of its own instead.
JsonObject: TypeAlias = dict[str, Any]
