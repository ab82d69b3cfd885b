"""Stand-ins for what makes latents, and goes between them and pictures."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy.simulator.machine.node import NodeCall, NodeClass, Spec
from comfy.simulator.media.images import Pixels, from_pillow, make_room, resize
from comfy.simulator.media.sampling import picture
from comfy.simulator.media.stand_ins import Latent, Model

_BATCH: Spec = ("INT", {"default": 1, "min": 1, "max": 4096})
_LATENT: Spec = ("LATENT", {})


def empty_latent(_call: NodeCall, width: int, height: int, batch_size: int) -> tuple[Latent]:
    return (Latent(width_px=width // 8 * 8, height_px=height // 8 * 8, count=batch_size),)


def empty_video(_call: NodeCall, width: int, height: int, length: int, batch_size: int) -> tuple[Latent]:
    """Video models pack four frames into one behind the first: what is over is cut off."""
    frames = (length - 1) // 4 * 4 + 1
    return (Latent(width_px=width // 8 * 8, height_px=height // 8 * 8, count=batch_size, frames=frames),)


def decode(call: NodeCall, samples: Latent, vae: Model) -> tuple[Pixels]:
    """Takes as long as one sampling step. The frames of videos come one video after the other."""
    call.machine.gpu.sleep(call.machine.gpu.use(*vae.weights) + call.machine.options.step_s)
    make_room(samples.count * samples.frames, samples.width_px, samples.height_px)
    frames = range(samples.frames)
    return (from_pillow([picture(samples, index, frame) for index in range(samples.count) for frame in frames]),)


def encode(call: NodeCall, pixels: Pixels, vae: Model) -> tuple[Latent]:
    """Takes as long as one sampling step."""
    call.machine.gpu.sleep(call.machine.gpu.use(*vae.weights) + call.machine.options.step_s)
    count, height, width, _ = pixels.shape
    return (Latent(width_px=width // 8 * 8, height_px=height // 8 * 8, count=count, source=pixels),)


def encode_for_inpaint(call: NodeCall, pixels: Pixels, vae: Model, **_mask: Any) -> tuple[Latent]:
    return encode(call, pixels, vae)


def upscale_latent(_call: NodeCall, samples: Latent, width: int, height: int, **_method: Any) -> tuple[Latent]:
    """Scale to a size; 0 for one side keeps the proportions, for both does nothing."""
    width = width or round(samples.width_px * height / samples.height_px) or samples.width_px
    height = height or round(samples.height_px * width / samples.width_px)
    return (dataclasses.replace(samples, width_px=max(8, width // 8 * 8), height_px=max(8, height // 8 * 8)),)


def upscale_with_model(call: NodeCall, upscale_model: Model, image: Pixels) -> tuple[Pixels]:
    """Four times as large, and one step of time for each picture."""
    each_s = call.machine.gpu.use(*upscale_model.weights, passes=len(image)) + call.machine.options.step_s
    for index in range(len(image)):
        call.machine.gpu.sleep(each_s)
        call.step(index + 1, len(image))
    return (resize(image, image.shape[2] * 4, image.shape[1] * 4, "lanczos"),)


def _size(default: int, step: int) -> Spec:
    return ("INT", {"default": default, "min": 16, "max": 16384, "step": step})


NODES = (
    NodeClass(
        name="EmptyLatentImage",
        run=empty_latent,
        category="latent",
        display_name="Empty Latent Image",
        required={"width": _size(512, 8), "height": _size(512, 8), "batch_size": _BATCH},
        outputs=("LATENT",),
    ),
    NodeClass(
        name="EmptySD3LatentImage",
        run=empty_latent,
        category="latent/sd3",
        module="comfy_extras.nodes_sd3",
        required={"width": _size(1024, 16), "height": _size(1024, 16), "batch_size": _BATCH},
        outputs=("LATENT",),
    ),
    NodeClass(
        name="EmptyHunyuanLatentVideo",
        run=empty_video,
        category="latent/video",
        module="comfy_extras.nodes_hunyuan",
        required={
            "width": _size(848, 16),
            "height": _size(480, 16),
            "length": ("INT", {"default": 25, "min": 1, "max": 16384, "step": 4}),
            "batch_size": _BATCH,
        },
        outputs=("LATENT",),
    ),
    NodeClass(
        name="LatentUpscale",
        run=upscale_latent,
        category="latent",
        display_name="Upscale Latent",
        required={
            "samples": _LATENT,
            "upscale_method": (["nearest-exact", "bilinear", "area", "bicubic", "bislerp"], {}),
            "width": ("INT", {"default": 512, "min": 0, "max": 16384, "step": 8}),
            "height": ("INT", {"default": 512, "min": 0, "max": 16384, "step": 8}),
            "crop": (["disabled", "center"], {}),
        },
        outputs=("LATENT",),
    ),
    NodeClass(
        name="VAEDecode",
        run=decode,
        category="latent",
        display_name="VAE Decode",
        required={"samples": _LATENT, "vae": ("VAE", {})},
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="VAEEncode",
        run=encode,
        category="latent",
        display_name="VAE Encode",
        required={"pixels": ("IMAGE", {}), "vae": ("VAE", {})},
        outputs=("LATENT",),
    ),
    NodeClass(
        name="VAEEncodeForInpaint",
        run=encode_for_inpaint,
        category="latent/inpaint",
        display_name="VAE Encode (for Inpainting)",
        required={
            "pixels": ("IMAGE", {}),
            "vae": ("VAE", {}),
            "mask": ("MASK", {}),
            "grow_mask_by": ("INT", {"default": 6, "min": 0, "max": 64, "step": 1}),
        },
        outputs=("LATENT",),
    ),
    NodeClass(
        name="ImageUpscaleWithModel",
        run=upscale_with_model,
        category="image/upscaling",
        display_name="Upscale Image (using Model)",
        module="comfy_extras.nodes_upscale_model",
        required={"upscale_model": ("UPSCALE_MODEL", {}), "image": ("IMAGE", {})},
        outputs=("IMAGE",),
    ),
)
