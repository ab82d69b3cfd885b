"""Lists the model files the simulated server claims to have, with their sizes."""

from __future__ import annotations

from comfy.simulator.machine.versions import Release

_GB = 1_000_000_000

#: The model folders of ComfyUI, in the order of `GET /models`.
FOLDERS = (
    "checkpoints",
    "configs",
    "loras",
    "vae",
    "text_encoders",
    "diffusion_models",
    "clip_vision",
    "style_models",
    "embeddings",
    "diffusers",
    "vae_approx",
    "controlnet",
    "gligen",
    "upscale_models",
    "custom_nodes",
    "hypernetworks",
    "photomaker",
    "classifiers",
    "model_patches",
    "audio_encoders",
)

#: Sizes in GB as published; they decide what fits into VRAM together.
_FILES: dict[str, dict[str, float]] = {
    "checkpoints": {
        "v1-5-pruned-emaonly-fp16.safetensors": 2.1,
        "v1-5-pruned-emaonly.safetensors": 4.3,
        "dreamshaper_8.safetensors": 2.1,
        "sd_xl_base_1.0.safetensors": 6.9,
        "sd_xl_turbo_1.0_fp16.safetensors": 6.9,
        "sd3.5_large_fp8_scaled.safetensors": 14.9,
        "flux1-dev-fp8.safetensors": 17.2,
        "flux1-schnell-fp8.safetensors": 17.2,
    },
    "diffusion_models": {
        "flux1-dev.safetensors": 23.8,
        "flux1-dev-fp8.safetensors": 11.9,
        "flux1-schnell.safetensors": 23.8,
        "sd3.5_large.safetensors": 16.5,
        "qwen_image_fp8_e4m3fn.safetensors": 20.4,
        "wan2.1_t2v_1.3B_fp16.safetensors": 2.8,
    },
    "text_encoders": {
        "clip_l.safetensors": 0.25,
        "clip_g.safetensors": 1.4,
        "t5xxl_fp16.safetensors": 9.8,
        "t5xxl_fp8_e4m3fn.safetensors": 4.9,
        "t5xxl_fp8_e4m3fn_scaled.safetensors": 5.2,
        "umt5_xxl_fp8_e4m3fn_scaled.safetensors": 6.7,
    },
    "vae": {
        "ae.safetensors": 0.34,
        "sdxl_vae.safetensors": 0.34,
        "vae-ft-mse-840000-ema-pruned.safetensors": 0.34,
        "wan_2.1_vae.safetensors": 0.25,
    },
    "loras": {
        "add_detail.safetensors": 0.04,
        "interior_design.safetensors": 0.15,
        "lcm-lora-sdv1-5.safetensors": 0.13,
        "pixel-art-xl.safetensors": 0.17,
    },
    "upscale_models": {"4x-UltraSharp.pth": 0.07, "RealESRGAN_x4plus.pth": 0.07},
    "controlnet": {
        "control_v11f1p_sd15_depth_fp16.safetensors": 0.72,
        "control_v11p_sd15_canny_fp16.safetensors": 0.72,
        "control_v11p_sd15_mlsd_fp16.safetensors": 0.72,
    },
    "clip_vision": {
        "clip-vit-large-patch14.safetensors": 1.7,
        "clip_vision_h.safetensors": 1.3,
        "sigclip_vision_patch14_384.safetensors": 0.86,
    },
    "style_models": {"flux1-redux-dev.safetensors": 0.13, "t2iadapter_style_sd14v1.pth": 0.15},
}

#: For names added on the command line without a size.
_DEFAULT_GB = 4.0

#: What ComfyUI takes for model files; others in the same folders are not listed with their sizes.
SUFFIXES = (".bin", ".ckpt", ".pkl", ".pt", ".pt2", ".pth", ".safetensors", ".sft")


def folders(release: Release) -> list[str]:
    """The model folders of a release."""
    return [*FOLDERS, *(["latent_upscale_models"] if release.names_platform else [])]


def names(folder: str) -> list[str]:
    """File names in one model folder."""
    return sorted(_FILES.get(folder, {}))


def size_bytes(folder: str, name: str) -> int:
    """How much RAM and VRAM a file's weights take."""
    return round(_FILES.get(folder, {}).get(name, _DEFAULT_GB) * _GB)
