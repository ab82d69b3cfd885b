"""Strippers for GLB models and safetensors (`.latent`): metadata stands in JSON at the beginning of the file.

The shorter JSON is filled up with spaces, so that what follows in the file stays where it is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from mmap import mmap
from typing import Any

from tasks.outputs.metadata.pieces import Piece, need

#: A safetensors file whose header is longer than this is not looked into; that of a latent has some kilobytes.
MAX_HEADER_BYTES = 32 * 1024 * 1024


def is_safetensors(data: mmap) -> bool:
    """Return whether the file may be one: it has no signature, only the length of a header, and the header."""
    length = int.from_bytes(data[:8], "little")
    return length <= min(len(data) - 8, MAX_HEADER_BYTES) and data[8:9] == b"{"


def safetensors(data: mmap) -> Iterator[Piece]:
    """Take out `__metadata__`."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    yield range(8)
    yield _padded(header, length)
    yield range(8 + length, len(data))


def glb(data: mmap) -> Iterator[Piece]:
    """Take out `asset.extras`, where ComfyUI puts the graph."""
    length, kind = struct.unpack_from("<I4s", data, 12)
    need(kind == b"JSON" and 20 + length <= len(data))
    scene = json.loads(data[20 : 20 + length])
    need(isinstance(scene, dict) and isinstance(scene.get("asset"), dict))
    scene["asset"].pop("extras", None)
    yield range(20)
    yield _padded(scene, length)
    yield range(20 + length, len(data))


def _padded(document: dict[str, Any], length: int) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    need(len(text) <= length)
    return text.ljust(length)
