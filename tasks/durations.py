"""How long prompts of the same shape took on this instance lately: the only ground for looking ahead."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Any

from workflows.graph import Graph

#: Shapes remembered, the least recently used forgotten first.
KEPT = 256
#: Weight of the newest duration in the average.
NEWEST = 0.5
#: Inputs whose number makes a prompt longer, in ComfyUI's own nodes and the usual video packs.
WEIGHTY_NUMBERS = frozenset(
    {
        *("steps", "width", "height", "length", "batch_size", "num_frames", "frames", "video_frames", "frame_count"),
        *("seconds", "duration", "scale_by", "upscale_by", "megapixels", "amount", "cfg", "denoise"),
    }
)


class Durations:
    """Durations by shape. Not more than an estimate, so it needs no lock: a lost update costs nothing."""

    def __init__(self) -> None:
        self._average_s: OrderedDict[str, float] = OrderedDict()

    def learn(self, shape: str, seconds: float) -> None:
        """One prompt of this shape took so long, from the moment ComfyUI took it up."""
        known = self._average_s.pop(shape, seconds)
        self._average_s[shape] = known + NEWEST * (seconds - known)
        while len(self._average_s) > KEPT:
            self._average_s.popitem(last=False)

    def expect(self, shape: str) -> float | None:
        """Seconds a prompt of this shape will take, or None when none was seen yet."""
        return self._average_s.get(shape)


def shape_of(graph: Graph) -> str:
    """What decides a prompt's duration: its classes, sizes, step counts and models; not seeds, colours and texts."""
    parts = sorted([node["class_type"], _weighty(node["inputs"])] for node in graph.values())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _weighty(inputs: dict[str, Any]) -> list[list[Any]]:
    return sorted(
        [name, value]
        for name, value in inputs.items()
        if (isinstance(value, (int, float)) and name in WEIGHTY_NUMBERS)
        or (isinstance(value, str) and name.endswith("_name"))
    )
