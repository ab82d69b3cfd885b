"""Nodes that hold one plain value, and those of the newer schema whose inputs depend on what is given."""

from __future__ import annotations

from typing import Any

import numpy as np

from comfy.simulator.machine.node import NodeCall, NodeClass, Spec
from comfy.simulator.media.images import Pixels, resize

_INT64 = 2**63 - 1
_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
_SIDE: Spec = ("INT", {"default": 512, "min": 0, "max": 16384, "step": 1})
_SIZES: dict[str, dict[str, Spec]] = {
    "scale dimensions": {"width": _SIDE, "height": _SIDE, "crop": ("COMBO", {"options": ["disabled", "center"]})},
    "scale by multiplier": {"multiplier": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01})},
}


def same(_call: NodeCall, value: Any) -> tuple[Any]:
    return (value,)


def choice(_call: NodeCall, choice: str, index: int = 0, **_options: Any) -> tuple[str, int]:
    return (choice, index)


def grow_batch(_call: NodeCall, **images: Pixels) -> tuple[Pixels]:
    """All pictures in one batch, scaled to the size of the first."""
    first, *rest = images.values()
    width, height = first.shape[2], first.shape[1]
    return (np.concatenate([first, *(resize(each, width, height, "bilinear") for each in rest)]),)


def resize_as_chosen(
    _call: NodeCall,
    input: Pixels,  # noqa: A002 - ComfyUI's name
    resize_type: str = "",
    scale_method: str = "area",
    **parts: Any,
) -> tuple[Pixels]:
    """By a factor, or to a size. A choice there is no such of is not noticed before the node runs."""
    _, height, width, _ = input.shape
    if resize_type == "scale by multiplier":
        factor = parts["resize_type.multiplier"]
        return (resize(input, round(width * factor), round(height * factor), scale_method),)
    if resize_type == "scale dimensions":
        size = parts["resize_type.width"] or width, parts["resize_type.height"] or height
        return (resize(input, *size, scale_method),)
    raise ValueError(f"Unsupported resize type: {resize_type}")


def _primitive(name: str, kind: str, options: dict[str, Any]) -> NodeClass:
    return NodeClass(
        name=name,
        run=same,
        category="utils/primitive",
        module="comfy_extras.nodes_primitive",
        required={"value": (kind, options)},
        outputs=(kind,),
    )


NODES = (
    _primitive("PrimitiveString", "STRING", {"multiline": False}),
    _primitive("PrimitiveInt", "INT", {"min": -_INT64, "max": _INT64, "control_after_generate": True}),
    _primitive("PrimitiveFloat", "FLOAT", {"min": -float(_INT64), "max": float(_INT64)}),
    _primitive("PrimitiveBoolean", "BOOLEAN", {}),
    NodeClass(
        name="CustomCombo",
        run=choice,
        category="utils",
        module="comfy_extras.nodes_logic",
        required={"choice": ("COMBO", {"multiselect": False, "options": []})},
        outputs=("STRING", "INT"),
        checks_everything=True,
        accepts_all_inputs=True,
    ),
    NodeClass(
        name="BatchImagesNode",
        run=grow_batch,
        category="image",
        module="comfy_extras.nodes_post_processing",
        required={
            "images": (
                "COMFY_AUTOGROW_V3",
                {"template": {"input": {"required": {"image": ("IMAGE", {})}}, "prefix": "image", "min": 2, "max": 50}},
            )
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="ResizeImageMaskNode",
        run=resize_as_chosen,
        category="transform",
        module="comfy_extras.nodes_post_processing",
        required={
            "input": ("COMFY_MATCHTYPE_V3", {"template": {"template_id": "input_type", "allowed_types": "IMAGE,MASK"}}),
            "resize_type": (
                "COMFY_DYNAMICCOMBO_V3",
                {"options": [{"key": key, "inputs": {"required": parts}} for key, parts in _SIZES.items()]},
            ),
            "scale_method": ("COMBO", {"default": "area", "options": _METHODS}),
        },
        outputs=("COMFY_MATCHTYPE_V3",),
    ),
)
