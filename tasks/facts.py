"""What an instance says of itself after a start: its version, its device, its nodes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

from comfy.client import ComfyClient


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Asked once for each start."""

    version: str
    #: ComfyUI's name of its device, for instance `cuda:0 NVIDIA L4 : cudaMallocAsync`.
    device: str | None
    object_info: dict[str, Any]


def read_facts(base_url: str) -> Facts:
    """Ask an instance. Raises ComfyUnavailable."""
    with closing(ComfyClient(base_url)) as client:
        stats = client.system_stats()
        object_info = client.object_info()
    devices = stats.get("devices") or [{}]
    name = devices[0].get("name")
    return Facts(
        version=str(stats.get("system", {}).get("comfyui_version") or "unknown"),
        device=None if name is None else str(name),
        object_info=object_info,
    )
