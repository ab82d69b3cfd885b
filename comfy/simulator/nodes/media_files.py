"""Nodes that save something other than single pictures, so that every kind of output a client meets can be produced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from comfy.simulator.machine.node import NodeCall, NodeClass, NodeResult, Spec
from comfy.simulator.media.containers import glb, mp4, safetensors, wav
from comfy.simulator.media.drawing import STAMP
from comfy.simulator.media.images import Pixels, to_pillow
from comfy.simulator.media.stand_ins import Latent
from comfy.simulator.nodes.files import HIDDEN, PREFIX, file_metadata, lose_if_ordered

_FPS: Spec = ("FLOAT", {"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01})
_IMAGES: Spec = ("IMAGE", {})
_VHS_ENDINGS = {"image/gif": "gif", "image/webp": "webp", "video/h264-mp4": "mp4", "video/webm": "webm"}


def save_latent(call: NodeCall, samples: Latent, filename_prefix: str = "latents/ComfyUI") -> NodeResult:
    side = (samples.height_px // 8, samples.width_px // 8)
    shape = (samples.count, 4, *side) if samples.frames == 1 else (samples.count, 16, samples.frames // 4 + 1, *side)
    metadata = {key: json.dumps(value) for key, value in (file_metadata(call) or {}).items()}
    tensors = {"latent_tensor": np.zeros(shape, np.float32), "latent_format_version_0": np.zeros((0,), np.float32)}
    return NodeResult(ui={"latents": [_store(call, filename_prefix, "latent", safetensors(tensors, metadata))]})


def save_animated_webp(call: NodeCall, images: Pixels, filename_prefix: str, fps: float, **quality: Any) -> NodeResult:
    return _save_animation(call, images, filename_prefix, "webp", fps, quality=int(quality.get("quality", 80)))


def save_animated_png(call: NodeCall, images: Pixels, filename_prefix: str, fps: float, **_settings: Any) -> NodeResult:
    return _save_animation(call, images, filename_prefix, "png", fps)


def create_video(_call: NodeCall, images: Pixels, fps: float, audio: Any = None) -> tuple[tuple[Pixels, float, Any]]:
    return ((images, fps, audio),)


def save_video(call: NodeCall, video: tuple[Pixels, float, Any], filename_prefix: str, **_settings: Any) -> NodeResult:
    """Like ComfyUI's, it shows its file under `images`, marked as animated."""
    images, fps, _ = video
    data = mp4(f"{STAMP}: {len(images)} frames at {fps} per second")
    return NodeResult(ui={"images": [_store(call, filename_prefix, "mp4", data)], "animated": (True,)})


def combine_video(
    call: NodeCall,
    images: Pixels,
    frame_rate: float,
    loop_count: int,
    filename_prefix: str,
    format: str,  # noqa: A002 - the node pack names its input so
    pingpong: bool,
    save_output: bool,
    **_inputs: Any,
) -> NodeResult:
    """What the node pack VideoHelperSuite shows under `gifs`."""
    kind = "output" if save_output else "temp"
    where = call.machine.paths.save_path(filename_prefix, kind, images.shape[2], images.shape[1])
    path = _unused(where.folder, where.stem, _VHS_ENDINGS[format])
    frames = to_pillow(images)
    if pingpong:
        frames += frames[-2:0:-1]
    if format.startswith("image/"):
        _write_animation(frames, path, frame_rate, loop=loop_count)
    else:
        path.write_bytes(mp4(f"{STAMP}: {len(frames)} frames at {frame_rate} per second"))
    lose_if_ordered(call, path)
    item = {
        "filename": path.name,
        "subfolder": where.subfolder,
        "type": kind,
        "format": format,
        "frame_rate": frame_rate,
        "workflow": path.with_suffix(".png").name,
        "fullpath": str(path),
    }
    return NodeResult(values=((save_output, [str(path)]),), ui={"gifs": [item]})


def save_tone(call: NodeCall, filename_prefix: str, seconds: float) -> NodeResult:
    return NodeResult(ui={"audio": [_store(call, filename_prefix, "wav", wav(seconds, 440.0))]})


def make_mesh(_call: NodeCall) -> tuple[str]:
    return (STAMP,)


def save_glb(call: NodeCall, mesh: str, filename_prefix: str) -> NodeResult:
    return NodeResult(ui={"3d": [_store(call, filename_prefix, "glb", glb(mesh))]})


def preview_3d(_call: NodeCall, model_file: str, **_settings: Any) -> NodeResult:
    """Shows a path and a camera, not file items."""
    return NodeResult(ui={"result": [model_file, None]})


def _store(call: NodeCall, prefix: str, ending: str, data: bytes) -> dict[str, str]:
    where = call.machine.paths.save_path(prefix, "output")
    name = where.file_name(0, ending)
    (where.folder / name).write_bytes(data)
    lose_if_ordered(call, where.folder / name)
    return {"filename": name, "subfolder": where.subfolder, "type": "output"}


def _save_animation(call: NodeCall, images: Pixels, prefix: str, ending: str, fps: float, **options: Any) -> NodeResult:
    where = call.machine.paths.save_path(prefix, "output", images.shape[2], images.shape[1])
    name = where.file_name(0, ending)
    _write_animation(to_pillow(images), where.folder / name, fps, **options)
    lose_if_ordered(call, where.folder / name)
    item = {"filename": name, "subfolder": where.subfolder, "type": "output"}
    return NodeResult(ui={"images": [item], "animated": (len(images) != 1,)})


def _write_animation(frames: list[Image.Image], path: Path, fps: float, **options: Any) -> None:
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), **options)


def _unused(folder: Path, stem: str, ending: str) -> Path:
    number = 1
    while (path := folder / f"{stem}_{number:05}.{ending}").exists():
        number += 1
    return path


NODES = (
    NodeClass(
        name="SaveLatent",
        run=save_latent,
        category="_for_testing",
        required={"samples": ("LATENT", {}), "filename_prefix": ("STRING", {"default": "latents/ComfyUI"})},
        hidden=HIDDEN,
        output_node=True,
    ),
    NodeClass(
        name="SaveAnimatedWEBP",
        run=save_animated_webp,
        category="image/animation",
        module="comfy_extras.nodes_images",
        required={
            "images": _IMAGES,
            "filename_prefix": PREFIX,
            "fps": _FPS,
            "lossless": ("BOOLEAN", {"default": True}),
            "quality": ("INT", {"default": 80, "min": 0, "max": 100}),
            "method": (["default", "fastest", "slowest"], {}),
        },
        hidden=HIDDEN,
        output_node=True,
    ),
    NodeClass(
        name="SaveAnimatedPNG",
        run=save_animated_png,
        category="image/animation",
        module="comfy_extras.nodes_images",
        required={
            "images": _IMAGES,
            "filename_prefix": PREFIX,
            "fps": _FPS,
            "compress_level": ("INT", {"default": 4, "min": 0, "max": 9}),
        },
        hidden=HIDDEN,
        output_node=True,
    ),
    NodeClass(
        name="CreateVideo",
        run=create_video,
        category="image/video",
        display_name="Create Video",
        module="comfy_extras.nodes_video",
        required={
            "images": _IMAGES,
            "fps": ("FLOAT", {"default": 30.0, "min": 1.0, "max": 120.0, "step": 1.0}),
        },
        optional={"audio": ("AUDIO", {})},
        outputs=("VIDEO",),
    ),
    NodeClass(
        name="SaveVideo",
        run=save_video,
        category="image/video",
        display_name="Save Video",
        module="comfy_extras.nodes_video",
        required={
            "video": ("VIDEO", {}),
            "filename_prefix": ("STRING", {"default": "video/ComfyUI"}),
            "format": (["auto", "mp4"], {"default": "auto"}),
            "codec": (["auto", "h264"], {"default": "auto"}),
        },
        hidden=HIDDEN,
        output_node=True,
    ),
    NodeClass(
        name="VHS_VideoCombine",
        run=combine_video,
        category="Video Helper Suite",
        display_name="Video Combine (simulated)",
        module="comfy.simulator",
        required={
            "images": _IMAGES,
            "frame_rate": ("FLOAT", {"default": 8, "min": 1, "step": 1}),
            "loop_count": ("INT", {"default": 0, "min": 0, "max": 100, "step": 1}),
            "filename_prefix": ("STRING", {"default": "AnimateDiff"}),
            "format": (list(_VHS_ENDINGS), {}),
            "pingpong": ("BOOLEAN", {"default": False}),
            "save_output": ("BOOLEAN", {"default": True}),
        },
        optional={"audio": ("AUDIO", {}), "vae": ("VAE", {})},
        hidden={**HIDDEN, "unique_id": "UNIQUE_ID"},
        outputs=("VHS_FILENAMES",),
        output_names=("Filenames",),
        output_node=True,
        idempotent=False,
    ),
    NodeClass(
        name="SimulatedSaveAudio",
        run=save_tone,
        category="simulator",
        module="comfy.simulator",
        required={
            "filename_prefix": ("STRING", {"default": "audio/ComfyUI"}),
            "seconds": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 60.0}),
        },
        output_node=True,
    ),
    NodeClass(
        name="SimulatedMesh",
        run=make_mesh,
        category="simulator",
        module="comfy.simulator",
        outputs=("MESH",),
    ),
    NodeClass(
        name="SaveGLB",
        run=save_glb,
        category="3d",
        module="comfy_extras.nodes_hunyuan3d",
        required={"mesh": ("MESH", {}), "filename_prefix": ("STRING", {"default": "mesh/ComfyUI"})},
        hidden=HIDDEN,
        output_node=True,
    ),
    NodeClass(
        name="Preview3D",
        run=preview_3d,
        category="3d",
        display_name="Preview 3D & Animation",
        module="comfy_extras.nodes_load_3d",
        required={"model_file": ("STRING", {"default": "", "multiline": False})},
        optional={"camera_info": ("LOAD3D_CAMERA", {})},
        output_node=True,
    ),
)
