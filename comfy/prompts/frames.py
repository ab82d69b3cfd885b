"""Websocket frames of ComfyUI, decoded: JSON events and binary previews."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Event ids of binary frames (ComfyUI 0.3.64 `protocol.py`); 2 is never sent.
_PREVIEW_IMAGE = 1
_TEXT = 3
_PREVIEW_WITH_METADATA = 4

_IMAGE_FORMATS = {1: "image/jpeg", 2: "image/png"}


@dataclass(frozen=True, kw_only=True)
class Event:
    """A JSON frame `{"type", "data"}`."""

    kind: str
    #: None for frames about no prompt (`status`), and for the `executing` that greets a new socket.
    prompt_id: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A binary frame: a picture, or a node's progress text as `text/plain`."""

    content_type: str
    payload: bytes
    #: Only frames of id 4 name their prompt.
    prompt_id: str | None = None
    node_id: str | None = None


def decode_text(payload: bytes | str) -> Event | None:
    """None for anything that is not an event object: custom nodes may send what they like, and it must not hurt."""
    try:
        message = json.loads(payload)
    except ValueError:
        return None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return None
    data = message.get("data")
    data = data if isinstance(data, dict) else {}
    prompt_id = data.get("prompt_id")
    return Event(kind=message["type"], prompt_id=prompt_id if isinstance(prompt_id, str) else None, data=data)


def decode_binary(payload: bytes) -> Preview | None:
    """None for an unknown or damaged frame. All numbers are big-endian and four bytes wide."""
    try:
        (event_id,) = struct.unpack_from(">I", payload)
        if event_id == _PREVIEW_IMAGE:
            (image_format,) = struct.unpack_from(">I", payload, 4)
            return Preview(content_type=_IMAGE_FORMATS.get(image_format, "image/jpeg"), payload=payload[8:])
        if event_id == _TEXT:
            node_id, text = _sized(payload)
            return Preview(content_type="text/plain", payload=text, node_id=node_id.decode())
        if event_id == _PREVIEW_WITH_METADATA:
            return _with_metadata(payload)
    except (struct.error, ValueError):
        return None
    return None


def _with_metadata(payload: bytes) -> Preview | None:
    header, image = _sized(payload)
    metadata = json.loads(header)
    if not isinstance(metadata, dict):
        return None
    # A node inside an expansion is shown as the node of the submitted graph it belongs to.
    node_id = metadata.get("display_node_id") or metadata.get("node_id")
    return Preview(
        content_type=str(metadata.get("image_type") or "image/jpeg"),
        payload=image,
        prompt_id=metadata.get("prompt_id"),
        node_id=None if node_id is None else str(node_id),
    )


def _sized(payload: bytes) -> tuple[bytes, bytes]:
    """Split what follows the event id into a part preceded by its length, and the rest."""
    (length,) = struct.unpack_from(">I", payload, 4)
    if 8 + length > len(payload):
        raise ValueError("the frame is shorter than it says")
    return payload[8 : 8 + length], payload[8 + length :]
