"""What is sent over a websocket of ComfyUI's own protocol, message by message."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Mapping
from typing import Any, TypeAlias

from api.contracts.comfyui.entries import node_names
from core.texts.json_types import JsonObject

#: A text frame or a binary one.
Frame: TypeAlias = str | bytes
#: Kinds of binary frames, and of pictures in the first of them.
PREVIEW, PREVIEW_WITH_METADATA = 1, 4
_JPEG, _PNG = 1, 2


def message(kind: str, data: Mapping[str, Any]) -> Frame:
    """Return a message with its kind."""
    return json.dumps({"type": kind, "data": data})


def status_message(remaining: int, *, sid: str | None = None) -> Frame:
    """Return how many prompts wait or run; the first message of a connection says also who the client is."""
    data: JsonObject = {"status": {"exec_info": {"queue_remaining": remaining}}}
    return message("status", data if sid is None else {**data, "sid": sid})


def executing(prompt_id: str, node: str | None) -> Frame:
    """Return which node runs; None: none any more, which is the last that is heard of a prompt."""
    data: JsonObject = {"node": node, "prompt_id": prompt_id}
    return message("executing", data if node is None else {**data, "display_node": node})


def node_state(prompt_id: str, node: str, value: float, most: float, state: str) -> JsonObject:
    """Return how far one node is, for `progress_state`."""
    names = node_names(node)
    return {
        "value": value,
        "max": most,
        "state": state,
        "node_id": node,
        "prompt_id": prompt_id,
        "display_node_id": names["display_node"],
        "parent_node_id": names["parent_node"],
        "real_node_id": names["real_node_id"],
    }


def preview(prompt_id: str, found: Mapping[str, Any], *, has_metadata: bool) -> Frame | None:
    """Return a picture in the making, as a notice has it.

    Parameters:
      has_metadata: the client has said that it understands frames that say whose picture it is.
    """
    try:
        picture = base64.b64decode(found["data_base64"], validate=True)
    except (LookupError, TypeError, binascii.Error):
        return None
    content_type, node = str(found.get("content_type")), str(found.get("node_id") or "")
    return picture_frame(prompt_id, node, picture, content_type, has_metadata=has_metadata)


def picture_frame(prompt_id: str, node: str, picture: bytes, content_type: str, *, has_metadata: bool) -> Frame:
    """Return a picture that a node sends. Parameters: has_metadata - as of `preview`."""
    if not has_metadata:
        return struct.pack(">II", PREVIEW, _PNG if content_type == "image/png" else _JPEG) + picture
    names = node_names(node)
    metadata = {
        "node_id": node,
        "prompt_id": prompt_id,
        "display_node_id": names["display_node"],
        "parent_node_id": names["parent_node"],
        "real_node_id": names["real_node_id"],
        "image_type": content_type,
    }
    head = json.dumps(metadata).encode()
    return struct.pack(">II", PREVIEW_WITH_METADATA, len(head)) + head + picture
