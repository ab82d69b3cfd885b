"""What decides how long a prompt takes: jobs of one shape take about as long."""

from __future__ import annotations

import hashlib
from typing import Any

from workflows.graphs.graph import Graph

#: Inputs whose number makes a prompt longer, in ComfyUI's own nodes and the usual video packs.
WEIGHTY_NUMBERS = frozenset(
    {
        *("steps", "width", "height", "length", "batch_size", "num_frames", "frames", "video_frames", "frame_count"),
        *("seconds", "duration", "scale_by", "upscale_by", "megapixels", "amount", "cfg", "denoise"),
    }
)


def shape_of(graph: Graph) -> str:
    """A digest of a graph's classes, sizes, step counts and models; not of its seeds, colours and texts."""
    # As text, since it is on the path of every submission, and values of one name need not be comparable.
    parts = sorted(f"{node['class_type']}{_weighty(node['inputs'])}" for node in graph.values())
    return hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()


def _weighty(inputs: dict[str, Any]) -> list[str]:
    return sorted(
        [
            f"{name}={value!r}"
            for name, value in inputs.items()
            if (name in WEIGHTY_NUMBERS and isinstance(value, (int, float)))
            or (isinstance(value, str) and name.endswith("_name"))
        ]
    )
