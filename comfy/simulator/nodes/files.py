"""Nodes that read uploaded pictures, and save or show finished ones."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy.simulator.machine.machine import Machine
from comfy.simulator.machine.node import Listing, NodeCall, NodeClass, NodeResult, Spec
from comfy.simulator.machine.paths import file_sha256
from comfy.simulator.media.images import Pixels, load, save_png, to_pillow

HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
PREFIX: Spec = ("STRING", {"default": "ComfyUI"})

_PREFIX_TOOLTIP = (
    "The prefix for the file to save. This may include formatting information such as %date:yyyy-MM-dd% or "
    "%Empty Latent Image.width% to include values from nodes."
)


def load_image(call: NodeCall, image: str) -> tuple[Pixels, Pixels]:
    return load(call.machine.paths.input_file(image))


def load_image_mask(call: NodeCall, image: str, channel: str) -> tuple[Pixels]:
    pixels, mask = load(call.machine.paths.input_file(image))
    if channel == "alpha":
        return (mask,)
    plane: Pixels = pixels[..., ("red", "green", "blue").index(channel)]
    return (plane,)


def save_image(call: NodeCall, images: Pixels, filename_prefix: str = "ComfyUI") -> NodeResult:
    return NodeResult(ui={"images": save_pngs(call, images, filename_prefix, "output")})


def preview_image(call: NodeCall, images: Pixels) -> NodeResult:
    suffix = "".join(random.choice(string.ascii_lowercase) for _ in range(5))  # noqa: S311 - a name, not a secret
    return NodeResult(ui={"images": save_pngs(call, images, f"ComfyUI_temp_{suffix}", "temp")})


def send_image(call: NodeCall, images: Pixels) -> NodeResult:
    """Send finished pictures over the websocket only; history shows nothing of them."""
    pictures = to_pillow(images)
    for index, picture in enumerate(pictures):
        call.step(index, len(pictures), picture, "PNG")
    return NodeResult()


def preview_any(_call: NodeCall, source: Any = None) -> NodeResult:
    return NodeResult(ui={"text": (source if isinstance(source, str) else str(source),)})


def save_pngs(call: NodeCall, images: Pixels, prefix: str, kind: str) -> list[dict[str, str]]:
    """Save a batch and return its file items; the graph goes into the files unless metadata is off."""
    _, height, width, _ = images.shape
    where = call.machine.paths.save_path(prefix, kind, width, height)
    metadata = file_metadata(call)
    items = []
    for number, picture in enumerate(to_pillow(images)):
        name = where.file_name(number, "png")
        save_png(picture, where.folder / name, metadata)
        lose_if_ordered(call, where.folder / name)
        items.append({"filename": name, "subfolder": where.subfolder, "type": kind})
    return items


def file_metadata(call: NodeCall) -> dict[str, Any] | None:
    """What ComfyUI writes into files: the graph, and whatever the client put into `extra_pnginfo`."""
    if not call.machine.options.write_metadata:
        return None
    extra = call.extra_data.get("extra_pnginfo")
    return {"prompt": call.prompt, **(extra if isinstance(extra, Mapping) else {})}


def lose_if_ordered(call: NodeCall, path: Path) -> None:
    """Commit the `missing_file` fault: report a file that is not there."""
    if call.machine.faults.take("missing_file") is not None:
        path.unlink()


def check_image(machine: Machine, inputs: Mapping[str, Any]) -> dict[str, str]:
    name = inputs["image"]
    if isinstance(name, str) and not machine.paths.input_file(name).is_file():
        return {"image": f"Invalid image file: {name}"}
    return {}


def image_fingerprint(machine: Machine, inputs: Mapping[str, Any]) -> str:
    path = machine.paths.input_file(str(inputs.get("image")))
    return file_sha256(path) if path.is_file() else ""


NODES = (
    NodeClass(
        name="LoadImage",
        run=load_image,
        category="image",
        display_name="Load Image",
        required={"image": (Listing("input"), {"image_upload": True})},
        outputs=("IMAGE", "MASK"),
        check=check_image,
        checked_inputs=("image",),
        fingerprint=image_fingerprint,
    ),
    NodeClass(
        name="LoadImageMask",
        run=load_image_mask,
        category="mask",
        display_name="Load Image (as Mask)",
        required={
            "image": (Listing("input"), {"image_upload": True}),
            "channel": (["alpha", "red", "green", "blue"], {}),
        },
        outputs=("MASK",),
        check=check_image,
        checked_inputs=("image",),
        fingerprint=image_fingerprint,
    ),
    NodeClass(
        name="SaveImage",
        run=save_image,
        category="image",
        display_name="Save Image",
        description="Saves the input images to your ComfyUI output directory.",
        required={
            "images": ("IMAGE", {"tooltip": "The images to save."}),
            "filename_prefix": ("STRING", {"default": "ComfyUI", "tooltip": _PREFIX_TOOLTIP}),
        },
        hidden=HIDDEN,
        output_node=True,
    ),
    NodeClass(
        name="PreviewImage",
        run=preview_image,
        category="image",
        display_name="Preview Image",
        description="Saves the input images to your ComfyUI output directory.",
        required={"images": ("IMAGE", {})},
        hidden=HIDDEN,
        output_node=True,
    ),
    NodeClass(
        name="SaveImageWebsocket",
        run=send_image,
        category="api/image",
        module="custom_nodes.websocket_image_save",
        required={"images": ("IMAGE", {})},
        output_node=True,
    ),
    NodeClass(
        name="PreviewAny",
        run=preview_any,
        category="utils",
        display_name="Preview Any",
        module="comfy_extras.nodes_preview_any",
        required={"source": ("*", {})},
        output_node=True,
    ),
)
