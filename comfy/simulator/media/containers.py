"""Writes small but well-formed files of kinds that would otherwise need an encoder: safetensors, MP4, GLB, WAV."""

from __future__ import annotations

import io
import json
import struct
import wave
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_SAMPLE_RATE_HZ = 16_000


def safetensors(tensors: Mapping[str, NDArray[np.float32]], metadata: Mapping[str, str]) -> bytes:
    """Float32 tensors: a length, a JSON header, the data."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.tobytes() for tensor in tensors.values())


def mp4(comment: str) -> bytes:
    """An MP4 without tracks: it has the right type and says what it is, but there is nothing to play."""
    return _box(b"ftyp", b"isom" + struct.pack(">I", 512) + b"isomiso2mp41") + _box(b"free", comment.encode())


def glb(comment: str) -> bytes:
    """A binary glTF with an empty scene."""
    scene = {"asset": {"version": "2.0", "generator": comment}, "scene": 0, "scenes": [{"nodes": []}]}
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    chunk = struct.pack("<I4s", len(text), b"JSON") + text
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunk)) + chunk


def wav(seconds: float, pitch_hz: float) -> bytes:
    """A plain tone, mono, 16 bit."""
    moments = np.arange(round(seconds * _SAMPLE_RATE_HZ)) / _SAMPLE_RATE_HZ
    samples = (np.sin(moments * pitch_hz * 2 * np.pi) * 8000).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_SAMPLE_RATE_HZ)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content
