"""What an instance says of itself after a start: its version, its device, its nodes, its model files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from comfy.client.client import ComfyClient
from core.errors import ComfyUnavailable
from core.texts.cards import name_of_devices
from workflows.graphs.temporary_files import without_jobs_files

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InstanceInfo:
    """Asked once for each start."""

    version: str
    #: ComfyUI's name of its device, for instance `cuda:0 NVIDIA L4 : cudaMallocAsync`, or `2 x NVIDIA L4`.
    device: str | None
    object_info: dict[str, Any]
    #: The memory of its GPU, as it says; of several, that of the one that prompts run on unless their nodes say else.
    vram_bytes: int | None = None
    #: Of the files in its model folders, by name, in bytes.
    model_sizes: Mapping[str, int] = field(default_factory=dict)


def read_catalogue(client: ComfyClient) -> dict[str, Any]:
    """Return what an instance takes: its `/object_info`, and classes of the past that it replaces.

    Raises ComfyUnavailable.

    Files of single jobs are not in it: with them it would be another one whenever a job begins or ends.
    Of classes of the past it is known that they give what their successors give. Which inputs they take, only the
    server knows.
    """
    object_info = without_jobs_files(client.object_info())
    replaced = {
        old: {
            "input": {},
            "output": replacement.outputs(object_info[replacement.new_class].get("output")),
            "output_node": object_info[replacement.new_class].get("output_node"),
            "replaced_by": replacement.new_class,
            "replacements": list(replacement.told),
        }
        for old, replacement in client.node_replacements().items()
        if old not in object_info and replacement.new_class in object_info
    }
    return object_info | replaced


def read_model_sizes(client: ComfyClient) -> dict[str, int]:
    """Return `{name: bytes}` of an instance's model files; `{}` if it does not tell: nobody waits for that."""
    try:
        return client.model_sizes()
    except ComfyUnavailable as exc:
        log.info("the sizes of its model files were not read: %s", exc)
        return {}


def read_info(base_url: str) -> InstanceInfo:
    """Ask an instance for its version, device, nodes and model files. Raises ComfyUnavailable."""
    with closing(ComfyClient(base_url)) as client:
        stats = client.system_stats()
        object_info = read_catalogue(client)
        model_sizes = read_model_sizes(client)
    devices = stats.get("devices") or [{}]
    vram = devices[0].get("vram_total")
    return InstanceInfo(
        version=str(stats.get("system", {}).get("comfyui_version") or "unknown"),
        device=name_of_devices(devices),
        vram_bytes=vram if isinstance(vram, int) else None,
        object_info=object_info,
        model_sizes=model_sizes,
    )
