"""GPUs as ComfyUI names them, in words for people."""

from __future__ import annotations

import re


def card_name(device: str) -> str:
    """Return the name of the card in that of a device: `NVIDIA L4` of `cuda:0 NVIDIA L4 : cudaMallocAsync`."""
    return re.sub(r"^cuda:[0-9]+ ", "", device).partition(" : ")[0]


def gigabytes(size_bytes: int) -> str:
    """Return a size as `6.9 GB`, `24 GB`, `0.04 GB`."""
    size = size_bytes / 1e9
    return f"{size:.0f} GB" if size >= 20 else f"{size:.1f} GB" if size >= 0.1 else f"{size:.2f} GB"
