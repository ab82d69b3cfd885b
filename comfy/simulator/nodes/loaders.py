"""Stand-ins for the nodes that load model files and change what was loaded: time and VRAM without a model."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy.simulator.machine.node import Listing, NodeCall, NodeClass, Spec
from comfy.simulator.media.stand_ins import Model, read_weights

_MODEL: Spec = ("MODEL", {})
_CLIP: Spec = ("CLIP", {})
_STRENGTH: Spec = ("FLOAT", {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01})
_DEVICE: Spec = (["default", "cpu"], {"advanced": True})
_CLIP_TYPES = "stable_diffusion stable_cascade sd3 stable_audio mochi ltxv pixart cosmos lumina2 wan hidream chroma"
_CLIP_TYPES += " ace omnigen2 qwen_image hunyuan_image"
_DUAL_TYPES = "sdxl sd3 flux hunyuan_video hidream hunyuan_image"


def load_checkpoint(call: NodeCall, ckpt_name: str) -> tuple[Model, Model, Model]:
    """One file holds all three; the parts share its weights."""
    model = Model(weights=(read_weights(call, "checkpoints", ckpt_name),))
    return model, model, model


def load_unet(call: NodeCall, unet_name: str, weight_dtype: str) -> tuple[Model]:  # noqa: ARG001 - part of the key only
    return (Model(weights=(read_weights(call, "diffusion_models", unet_name),)),)


def load_clip(call: NodeCall, **inputs: Any) -> tuple[Model]:
    """One, two or three text encoders, named by `clip_name`, `clip_name1`, ..."""
    names = [value for name, value in inputs.items() if name.startswith("clip_name")]
    return (Model(weights=tuple(read_weights(call, "text_encoders", name) for name in names)),)


def load_vae(call: NodeCall, vae_name: str) -> tuple[Model]:
    return (Model(weights=(read_weights(call, "vae", vae_name),)),)


def load_lora(
    call: NodeCall, model: Model, clip: Model, lora_name: str, strength_model: float, strength_clip: float
) -> tuple[Model, Model]:
    """Patch both; the base weights stay what they are, and where they are."""
    read_weights(call, "loras", lora_name)
    return _patched(model, lora_name, strength_model), _patched(clip, lora_name, strength_clip)


def load_lora_model_only(call: NodeCall, model: Model, lora_name: str, strength_model: float) -> tuple[Model]:
    read_weights(call, "loras", lora_name)
    return (_patched(model, lora_name, strength_model),)


def load_single(call: NodeCall, **inputs: Any) -> tuple[Model]:
    """A loader whose one input names a file."""
    (input_name, file_name), *_ = inputs.items()
    return (Model(weights=(read_weights(call, _SINGLE_FOLDERS[input_name], file_name),)),)


def keep_model(_call: NodeCall, model: Model, **_settings: Any) -> tuple[Model]:
    """A node that changes how a model is sampled, which nobody can see here."""
    return (model,)


def keep_clip(_call: NodeCall, clip: Model, **_settings: Any) -> tuple[Model]:
    return (clip,)


def _patched(model: Model, lora: str, strength: float) -> Model:
    return dataclasses.replace(model, loras=(*model.loras, (lora, strength))) if strength else model


_SINGLE_FOLDERS = {
    "model_name": "upscale_models",
    "control_net_name": "controlnet",
    "clip_name": "clip_vision",
    "style_model_name": "style_models",
}


def _text_encoders(*names: str) -> dict[str, Spec]:
    return {name: (Listing("text_encoders"), {}) for name in names}


NODES = (
    NodeClass(
        name="CheckpointLoaderSimple",
        run=load_checkpoint,
        category="loaders",
        display_name="Load Checkpoint",
        description="Loads a diffusion model checkpoint, diffusion models are used to denoise latents.",
        required={
            "ckpt_name": (Listing("checkpoints"), {"tooltip": "The name of the checkpoint (model) to load."}),
        },
        outputs=("MODEL", "CLIP", "VAE"),
    ),
    NodeClass(
        name="UNETLoader",
        run=load_unet,
        category="advanced/loaders",
        display_name="Load Diffusion Model",
        required={
            "unet_name": (Listing("diffusion_models"), {}),
            "weight_dtype": (["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"], {}),
        },
        outputs=("MODEL",),
    ),
    NodeClass(
        name="CLIPLoader",
        run=load_clip,
        category="advanced/loaders",
        display_name="Load CLIP",
        required={**_text_encoders("clip_name"), "type": (_CLIP_TYPES.split(), {})},
        optional={"device": _DEVICE},
        outputs=("CLIP",),
    ),
    NodeClass(
        name="DualCLIPLoader",
        run=load_clip,
        category="advanced/loaders",
        required={**_text_encoders("clip_name1", "clip_name2"), "type": (_DUAL_TYPES.split(), {})},
        optional={"device": _DEVICE},
        outputs=("CLIP",),
    ),
    NodeClass(
        name="TripleCLIPLoader",
        run=load_clip,
        category="advanced/loaders",
        module="comfy_extras.nodes_sd3",
        required=_text_encoders("clip_name1", "clip_name2", "clip_name3"),
        outputs=("CLIP",),
    ),
    NodeClass(
        name="VAELoader",
        run=load_vae,
        category="loaders",
        display_name="Load VAE",
        required={"vae_name": (Listing("vae"), {})},
        outputs=("VAE",),
    ),
    NodeClass(
        name="LoraLoader",
        run=load_lora,
        category="loaders",
        display_name="Load LoRA",
        required={
            "model": _MODEL,
            "clip": _CLIP,
            "lora_name": (Listing("loras"), {}),
            "strength_model": _STRENGTH,
            "strength_clip": _STRENGTH,
        },
        outputs=("MODEL", "CLIP"),
    ),
    NodeClass(
        name="LoraLoaderModelOnly",
        run=load_lora_model_only,
        category="loaders",
        required={"model": _MODEL, "lora_name": (Listing("loras"), {}), "strength_model": _STRENGTH},
        outputs=("MODEL",),
    ),
    NodeClass(
        name="UpscaleModelLoader",
        run=load_single,
        category="loaders",
        display_name="Load Upscale Model",
        module="comfy_extras.nodes_upscale_model",
        required={"model_name": (Listing("upscale_models"), {})},
        outputs=("UPSCALE_MODEL",),
    ),
    NodeClass(
        name="ControlNetLoader",
        run=load_single,
        category="loaders",
        display_name="Load ControlNet Model",
        required={"control_net_name": (Listing("controlnet"), {})},
        outputs=("CONTROL_NET",),
    ),
    NodeClass(
        name="CLIPVisionLoader",
        run=load_single,
        category="loaders",
        display_name="Load CLIP Vision",
        required={"clip_name": (Listing("clip_vision"), {})},
        outputs=("CLIP_VISION",),
    ),
    NodeClass(
        name="StyleModelLoader",
        run=load_single,
        category="loaders",
        display_name="Load Style Model",
        required={"style_model_name": (Listing("style_models"), {})},
        outputs=("STYLE_MODEL",),
    ),
    NodeClass(
        name="CLIPSetLastLayer",
        run=keep_clip,
        category="conditioning",
        display_name="CLIP Set Last Layer",
        required={
            "clip": _CLIP,
            "stop_at_clip_layer": ("INT", {"default": -1, "min": -24, "max": -1, "step": 1}),
        },
        outputs=("CLIP",),
    ),
    NodeClass(
        name="ModelSamplingFlux",
        run=keep_model,
        category="advanced/model",
        module="comfy_extras.nodes_model_advanced",
        required={
            "model": _MODEL,
            "max_shift": ("FLOAT", {"default": 1.15, "min": 0.0, "max": 100.0, "step": 0.01}),
            "base_shift": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 100.0, "step": 0.01}),
            "width": ("INT", {"default": 1024, "min": 16, "max": 16384, "step": 8}),
            "height": ("INT", {"default": 1024, "min": 16, "max": 16384, "step": 8}),
        },
        outputs=("MODEL",),
    ),
    NodeClass(
        name="ModelSamplingSD3",
        run=keep_model,
        category="advanced/model",
        module="comfy_extras.nodes_model_advanced",
        required={
            "model": _MODEL,
            "shift": ("FLOAT", {"default": 3.0, "min": 0.0, "max": 100.0, "step": 0.01}),
        },
        outputs=("MODEL",),
    ),
)
