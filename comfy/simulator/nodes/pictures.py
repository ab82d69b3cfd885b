"""Nodes that make and change pictures for real: no model, no simulated time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from comfy.simulator.machine.node import NodeCall, NodeClass, Spec
from comfy.simulator.media.images import RESAMPLING, Pixels, make_room, resize

_SIZE: Mapping[str, Any] = {"default": 512, "min": 1, "max": 16384, "step": 1}
_IMAGE: Spec = ("IMAGE", {})


def empty_image(_call: NodeCall, width: int, height: int, batch_size: int, color: int) -> tuple[Pixels]:
    """One colour, `0xRRGGBB`."""
    rgb = [(color >> shift & 0xFF) / 255.0 for shift in (16, 8, 0)]
    make_room(batch_size, width, height)
    picture = np.empty((batch_size, height, width, 3), dtype=np.float32)
    picture[...] = rgb
    return (picture,)


def scale_image(
    _call: NodeCall, image: Pixels, upscale_method: str, width: int, height: int, crop: str
) -> tuple[Pixels]:
    """Scale to a size; 0 for one side keeps the proportions, for both does nothing."""
    _, old_height, old_width, _ = image.shape
    if width == 0 and height == 0:
        return (image,)
    width = width or max(1, round(old_width * height / old_height))
    height = height or max(1, round(old_height * width / old_width))
    if crop == "center":
        image = _crop_to_ratio(image, width / height)
    return (resize(image, width, height, upscale_method),)


def scale_image_by(_call: NodeCall, image: Pixels, upscale_method: str, scale_by: float) -> tuple[Pixels]:
    _, height, width, _ = image.shape
    return (resize(image, round(width * scale_by), round(height * scale_by), upscale_method),)


def scale_to_megapixels(_call: NodeCall, image: Pixels, upscale_method: str, megapixels: float) -> tuple[Pixels]:
    _, height, width, _ = image.shape
    factor = math.sqrt(megapixels * 1024 * 1024 / (width * height))
    return (resize(image, round(width * factor), round(height * factor), upscale_method),)


def invert_image(_call: NodeCall, image: Pixels) -> tuple[Pixels]:
    return (np.float32(1.0) - image,)


def batch_images(_call: NodeCall, image1: Pixels, image2: Pixels) -> tuple[Pixels]:
    """Both batches in one; the second is scaled to the size of the first."""
    if image1.shape[1:3] != image2.shape[1:3]:
        image2 = resize(image2, image1.shape[2], image1.shape[1], "bilinear")
    make_room(len(image1) + len(image2), image1.shape[2], image1.shape[1])
    return (np.concatenate([image1[..., :3], image2[..., :3]]),)


def crop_image(_call: NodeCall, image: Pixels, width: int, height: int, x: int, y: int) -> tuple[Pixels]:
    x, y = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return (image[:, y : y + height, x : x + width, :],)


def blend_images(
    _call: NodeCall, image1: Pixels, image2: Pixels, blend_factor: float, blend_mode: str
) -> tuple[Pixels]:
    if image1.shape != image2.shape:
        image2 = resize(image2, image1.shape[2], image1.shape[1], "bicubic")
    mixed = _BLENDS[blend_mode](image1, image2)
    blended: Pixels = np.clip(image1 * (1 - blend_factor) + mixed * blend_factor, 0, 1).astype(np.float32)
    return (blended,)


def _overlay(a: Pixels, b: Pixels) -> Pixels:
    return np.where(a <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b))


def _soft_light(a: Pixels, b: Pixels) -> Pixels:
    return np.where(b <= 0.5, a - (1 - 2 * b) * a * (1 - a), a + (2 * b - 1) * (np.sqrt(a) - a))


_BLENDS: Mapping[str, Callable[[Pixels, Pixels], Pixels]] = {
    "normal": lambda _, b: b,
    "multiply": lambda a, b: a * b,
    "screen": lambda a, b: 1 - (1 - a) * (1 - b),
    "overlay": _overlay,
    "soft_light": _soft_light,
    "difference": lambda a, b: a - b,
}


def _crop_to_ratio(image: Pixels, ratio: float) -> Pixels:
    _, height, width, _ = image.shape
    if width / height > ratio:
        margin = round((width - height * ratio) / 2)
        return image[:, :, margin : width - margin, :]
    margin = round((height - width / ratio) / 2)
    return image[:, margin : height - margin, :, :]


_METHODS: Spec = (list(RESAMPLING), {})

NODES = (
    NodeClass(
        name="EmptyImage",
        run=empty_image,
        category="image",
        required={
            "width": ("INT", _SIZE),
            "height": ("INT", _SIZE),
            "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
            "color": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"}),
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="ImageScale",
        run=scale_image,
        category="image/upscaling",
        display_name="Upscale Image",
        required={
            "image": _IMAGE,
            "upscale_method": _METHODS,
            "width": ("INT", {"default": 512, "min": 0, "max": 16384, "step": 1}),
            "height": ("INT", {"default": 512, "min": 0, "max": 16384, "step": 1}),
            "crop": (["disabled", "center"], {}),
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="ImageScaleBy",
        run=scale_image_by,
        category="image/upscaling",
        display_name="Upscale Image By",
        required={
            "image": _IMAGE,
            "upscale_method": _METHODS,
            "scale_by": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01}),
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="ImageScaleToTotalPixels",
        run=scale_to_megapixels,
        category="image/upscaling",
        display_name="Scale Image to Total Pixels",
        module="comfy_extras.nodes_post_processing",
        required={
            "image": _IMAGE,
            "upscale_method": _METHODS,
            "megapixels": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 16.0, "step": 0.01}),
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="ImageInvert",
        run=invert_image,
        category="image",
        display_name="Invert Image",
        required={"image": _IMAGE},
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="ImageBatch",
        run=batch_images,
        category="image",
        display_name="Batch Images",
        required={"image1": _IMAGE, "image2": _IMAGE},
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="ImageCrop",
        run=crop_image,
        category="image/transform",
        display_name="Image Crop",
        module="comfy_extras.nodes_images",
        required={
            "image": _IMAGE,
            "width": ("INT", _SIZE),
            "height": ("INT", _SIZE),
            "x": ("INT", {"default": 0, "min": 0, "max": 16384, "step": 1}),
            "y": ("INT", {"default": 0, "min": 0, "max": 16384, "step": 1}),
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="ImageBlend",
        run=blend_images,
        category="image/postprocessing",
        module="comfy_extras.nodes_post_processing",
        required={
            "image1": _IMAGE,
            "image2": _IMAGE,
            "blend_factor": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01}),
            "blend_mode": (["normal", "multiply", "screen", "overlay", "soft_light", "difference"], {}),
        },
        outputs=("IMAGE",),
    ),
)
