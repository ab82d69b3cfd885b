"""GPUs as ComfyUI names them, in words for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def card_name(device: str) -> str:
    """Return the name of the card in that of a device: `NVIDIA L4` of `cuda:0 NVIDIA L4 : cudaMallocAsync`."""
    return re.sub(r"^cuda:[0-9]+ ", "", device).partition(" : ")[0]


def name_of_devices(devices: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name of what a ComfyUI runs on, by its list of devices; None: it does not say.

    Up to 0.30 the list has one, and then that is the name. A process with several GPUs is named by its cards, as
    `2 x NVIDIA L4`: it runs one prompt at a time, and not as fast as a process with one of them.
    """
    names = [str(device["name"]) for device in devices if device.get("name") is not None]
    gpus = [name for name in names if name != "cpu"]
    if len(gpus) < 2:
        return names[0] if names else None
    cards = Counter(map(card_name, gpus))
    return " + ".join(card if count == 1 else f"{count} x {card}" for card, count in cards.items())


def gigabytes(size_bytes: int) -> str:
    """Return a size as `6.9 GB`, `24 GB`, `0.04 GB`: rounded down, so that what is shown of a card can be required."""
    step, per_gb = (10**8, 10) if size_bytes >= 10**8 else (10**7, 100)
    return f"{size_bytes // step / per_gb:g} GB"
