"""Stand-ins for the nodes that encode texts and pictures and steer a sampler with them."""

from __future__ import annotations

import dataclasses
from typing import Any

from PIL import ImageFilter

from comfy.simulator.machine.node import NodeCall, NodeClass, Spec
from comfy.simulator.media.drawing import main_colours
from comfy.simulator.media.images import Pixels, from_pillow, to_pillow
from comfy.simulator.media.stand_ins import Conditioning, Model

_TEXT: Spec = ("STRING", {"multiline": True, "dynamicPrompts": True})
_CONDITIONING: Spec = ("CONDITIONING", {})
_SHARE: Spec = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.001})


def encode_text(call: NodeCall, text: str, clip: Model) -> tuple[Conditioning]:
    call.machine.gpu.sleep(call.machine.gpu.use(*clip.weights))
    return (Conditioning(text=text),)


def encode_text_flux(call: NodeCall, clip: Model, clip_l: str, t5xxl: str, guidance: float) -> tuple[Conditioning]:  # noqa: ARG001
    call.machine.gpu.sleep(call.machine.gpu.use(*clip.weights))
    return (Conditioning(text=t5xxl or clip_l),)


def keep_conditioning(_call: NodeCall, conditioning: Conditioning, **_settings: Any) -> tuple[Conditioning]:
    return (conditioning,)


def zero_out(_call: NodeCall, conditioning: Conditioning) -> tuple[Conditioning]:
    return (dataclasses.replace(conditioning, text="", palette=()),)


def combine(_call: NodeCall, conditioning_1: Conditioning, conditioning_2: Conditioning) -> tuple[Conditioning]:
    text = ", ".join(part.text for part in (conditioning_1, conditioning_2) if part.text)
    weights = conditioning_1.extra_weights + conditioning_2.extra_weights
    return (Conditioning(text=text, extra_weights=weights, palette=conditioning_1.palette or conditioning_2.palette),)


def apply_control_net(
    _call: NodeCall, positive: Conditioning, negative: Conditioning, control_net: Model, **_settings: Any
) -> tuple[Conditioning, Conditioning]:
    weights = control_net.weights
    return tuple(  # type: ignore[return-value]  # two in, two out
        dataclasses.replace(part, extra_weights=part.extra_weights + weights) for part in (positive, negative)
    )


def encode_vision(call: NodeCall, clip_vision: Model, image: Pixels, crop: str) -> tuple[Pixels]:  # noqa: ARG001
    call.machine.gpu.sleep(call.machine.gpu.use(*clip_vision.weights))
    return (image,)


def apply_style(
    _call: NodeCall,
    conditioning: Conditioning,
    style_model: Model,
    clip_vision_output: Pixels,
    strength: float,
    **_settings: Any,
) -> tuple[Conditioning]:
    """Of a style there remain the colours of its picture."""
    extra = conditioning.extra_weights + style_model.weights
    palette = main_colours(to_pillow(clip_vision_output[:1])[0]) if strength else conditioning.palette
    return (dataclasses.replace(conditioning, extra_weights=extra, palette=palette),)


def find_edges(_call: NodeCall, image: Pixels, low_threshold: float, high_threshold: float) -> tuple[Pixels]:
    """Edges by a plain filter; the thresholds only cut off what is weak."""
    cut = round(255 * min(low_threshold, high_threshold) / 2)
    edges = [
        p.convert("L").filter(ImageFilter.FIND_EDGES).point(lambda v: 255 if v > cut else 0) for p in to_pillow(image)
    ]
    return (from_pillow(edges),)


NODES = (
    NodeClass(
        name="CLIPTextEncode",
        run=encode_text,
        category="conditioning",
        display_name="CLIP Text Encode (Prompt)",
        required={"text": _TEXT, "clip": ("CLIP", {})},
        outputs=("CONDITIONING",),
    ),
    NodeClass(
        name="CLIPTextEncodeFlux",
        run=encode_text_flux,
        category="advanced/conditioning/flux",
        module="comfy_extras.nodes_flux",
        required={
            "clip": ("CLIP", {}),
            "clip_l": _TEXT,
            "t5xxl": _TEXT,
            "guidance": ("FLOAT", {"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1}),
        },
        outputs=("CONDITIONING",),
    ),
    NodeClass(
        name="FluxGuidance",
        run=keep_conditioning,
        category="advanced/conditioning/flux",
        module="comfy_extras.nodes_flux",
        required={
            "conditioning": _CONDITIONING,
            "guidance": ("FLOAT", {"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1}),
        },
        outputs=("CONDITIONING",),
    ),
    NodeClass(
        name="ConditioningZeroOut",
        run=zero_out,
        category="advanced/conditioning",
        required={"conditioning": _CONDITIONING},
        outputs=("CONDITIONING",),
    ),
    NodeClass(
        name="ConditioningCombine",
        run=combine,
        category="conditioning",
        display_name="Conditioning (Combine)",
        required={"conditioning_1": _CONDITIONING, "conditioning_2": _CONDITIONING},
        outputs=("CONDITIONING",),
    ),
    NodeClass(
        name="ControlNetApplyAdvanced",
        run=apply_control_net,
        category="conditioning/controlnet",
        display_name="Apply ControlNet",
        required={
            "positive": _CONDITIONING,
            "negative": _CONDITIONING,
            "control_net": ("CONTROL_NET", {}),
            "image": ("IMAGE", {}),
            "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}),
            "start_percent": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.001}),
            "end_percent": _SHARE,
        },
        optional={"vae": ("VAE", {})},
        outputs=("CONDITIONING", "CONDITIONING"),
        output_names=("positive", "negative"),
    ),
    NodeClass(
        name="CLIPVisionEncode",
        run=encode_vision,
        category="conditioning",
        display_name="CLIP Vision Encode",
        required={"clip_vision": ("CLIP_VISION", {}), "image": ("IMAGE", {}), "crop": (["center", "none"], {})},
        outputs=("CLIP_VISION_OUTPUT",),
    ),
    NodeClass(
        name="StyleModelApply",
        run=apply_style,
        category="conditioning/style_model",
        display_name="Apply Style Model",
        required={
            "conditioning": _CONDITIONING,
            "style_model": ("STYLE_MODEL", {}),
            "clip_vision_output": ("CLIP_VISION_OUTPUT", {}),
            "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.001}),
            "strength_type": (["multiply", "attn_bias"], {}),
        },
        outputs=("CONDITIONING",),
    ),
    NodeClass(
        name="Canny",
        run=find_edges,
        category="image/preprocessors",
        module="comfy_extras.nodes_canny",
        required={
            "image": ("IMAGE", {}),
            "low_threshold": ("FLOAT", {"default": 0.4, "min": 0.01, "max": 0.99, "step": 0.01}),
            "high_threshold": ("FLOAT", {"default": 0.8, "min": 0.01, "max": 0.99, "step": 0.01}),
        },
        outputs=("IMAGE",),
    ),
)
