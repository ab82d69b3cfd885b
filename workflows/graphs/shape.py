"""What decides how long a prompt takes: jobs of one shape take about as long."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
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
    return digest_of([shape_in(node) for node in graph.values()])


def shape_in(node: Mapping[str, Any]) -> str:
    """What one node has to do with the shape of its graph."""
    # As text, since values of one name need not be comparable.
    return f"{node['class_type']}{_weighty(node['inputs'])}"


def digest_of(parts: Iterable[str]) -> str:
    """The shape of a graph whose nodes have these parts in it, in any order."""
    return hashlib.sha256("\n".join(sorted(parts)).encode(errors="replace")).hexdigest()


def _weighty(inputs: dict[str, Any]) -> list[str]:
    found = []
    for name, value in inputs.items():
        # No name is of both kinds.
        if name in WEIGHTY_NUMBERS:
            is_weighty = isinstance(value, (int, float))
        else:
            is_weighty = isinstance(value, str) and name.endswith("_name")
        if is_weighty:
            found.append(f"{name}={value!r}")
    found.sort()
    return found
