"""GPUs as ComfyUI names them, in words for people."""

from __future__ import annotations

import re


def card_name(device: str) -> str:
    """Return the name of the card in that of a device: `NVIDIA L4` of `cuda:0 NVIDIA L4 : cudaMallocAsync`."""
    return re.sub(r"^cuda:[0-9]+ ", "", device).partition(" : ")[0]


def gigabytes(size_bytes: int) -> str:
    """Return a size as `6.9 GB`, `24 GB`, `0.04 GB`: rounded down, so that what is shown of a card can be required."""
    step, per_gb = (10**8, 10) if size_bytes >= 10**8 else (10**7, 100)
    return f"{size_bytes // step / per_gb:g} GB"
