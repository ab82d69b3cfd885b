"""Converts between the pictures nodes pass around and Pillow's, and writes PNG as ComfyUI does.

An IMAGE is a float32 array `[count, height_px, width_px, channels]` of values 0..1; a MASK is `[count, height_px,
width_px]`, where 1 means transparent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from comfy.simulator.machine.vram import OutOfVideoMemory

Pixels: TypeAlias = NDArray[np.float32]

RESAMPLING = {
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


#: Largest batch of pictures made. The simulated GPU has room for more, but the machine it runs on is real.
MAX_PIXELS_BYTES = 1024**3


def make_room(count: int, width_px: int, height_px: int) -> None:
    """Called before a batch of pictures is made. Raises OutOfVideoMemory when it would be too large."""
    if count * width_px * height_px * 3 * np.dtype(np.float32).itemsize > MAX_PIXELS_BYTES:
        raise OutOfVideoMemory("Allocation on device")


def to_pillow(pixels: Pixels) -> list[Image.Image]:
    """Every picture of a batch."""
    scaled = np.clip(pixels * 255.0, 0, 255).astype(np.uint8)
    return [Image.fromarray(scaled[index]) for index in range(len(scaled))]


def from_pillow(pictures: list[Image.Image]) -> Pixels:
    """A batch of pictures of one size, as RGB."""
    return np.stack([np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0 for picture in pictures])


def load(path: Path) -> tuple[Pixels, Pixels]:
    """A picture file's frames and their masks; without an alpha channel the mask is 64x64 zeros, as in ComfyUI."""
    frames: list[Image.Image] = []
    masks: list[Pixels] = []
    with Image.open(path) as file:
        for index in range(getattr(file, "n_frames", 1)):
            file.seek(index)
            frame = ImageOps.exif_transpose(file)
            assert frame is not None
            if frames and frame.size != frames[0].size:
                continue
            if "A" in frame.getbands():
                alpha = np.asarray(frame.getchannel("A"), dtype=np.float32) / 255.0
                masks.append(1.0 - alpha)
            else:
                masks.append(np.zeros((64, 64), dtype=np.float32))
            frames.append(frame.convert("RGB"))
    return from_pillow(frames), np.stack([mask for mask in masks if mask.shape == masks[0].shape])


def resize(pixels: Pixels, width_px: int, height_px: int, method: str) -> Pixels:
    """Scale every picture of a batch."""
    size = (max(width_px, 1), max(height_px, 1))
    make_room(len(pixels), *size)
    return from_pillow([picture.resize(size, RESAMPLING[method]) for picture in to_pillow(pixels)])


def save_png(picture: Image.Image, path: Path, metadata: Mapping[str, Any] | None) -> None:
    """Write one PNG; `metadata` becomes text chunks, each value as JSON."""
    info = PngImagePlugin.PngInfo()
    for key, value in (metadata or {}).items():
        info.add_text(key, json.dumps(value))
    picture.save(path, format="PNG", pnginfo=info, compress_level=4)
