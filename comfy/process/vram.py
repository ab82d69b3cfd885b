"""How much of its GPU's memory is in use: asked of the driver, or of the instance where that is not on our machine.

In a thread of its own, for a driver may hang, and a heartbeat must not wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from comfy.client.client import ComfyClient
from comfy.process.discovery import used_memory
from comfy.process.spec import InstanceSpec
from core.background import Loop
from core.errors import ComfyUnavailable

LOOK_S = 15.0
#: What was seen holds for so long.
HOLDS_S = 60.0
#: An instance has so long to answer.
ANSWER_S = 5.0


class VramWatch:
    """Looks from `start` until `end`."""

    def __init__(self, spec: InstanceSpec, base_url: Callable[[], str | None]) -> None:
        """Parameters: base_url - of the instance; None while it does not answer."""
        self._gpu = spec.gpu if spec.kind == "comfyui" else None
        self._base_url = base_url
        self._seen: tuple[float, int | None] | None = None
        self._loop = Loop("vram", self._look, pause_s=LOOK_S)

    def start(self) -> None:
        """Begin to look."""
        self._loop.start()

    def end(self) -> None:
        """Look no more."""
        self._loop.end()

    def used_bytes(self) -> int | None:
        """Return how many bytes were in use lately; None where nobody can tell."""
        if self._seen is None or time.monotonic() - self._seen[0] > HOLDS_S:
            return None
        return self._seen[1]

    def _look(self) -> None:
        self._seen = (time.monotonic(), self._asked())

    def _asked(self) -> int | None:
        if self._gpu is not None:
            return used_memory(self._gpu)
        base_url = self._base_url()
        return None if base_url is None else _told_by(base_url)


def _told_by(base_url: str) -> int | None:
    """Return what an instance says of its first device."""
    try:
        with closing(ComfyClient(base_url, read_timeout_s=ANSWER_S)) as client:
            device = (client.system_stats().get("devices") or [{}])[0]
    except ComfyUnavailable:
        # Whether it lives is for others to say.
        return None
    total, free = device.get("vram_total"), device.get("vram_free")
    return max(0, total - free) if isinstance(total, int) and isinstance(free, int) else None
