"""Nodes that name files and folders without an upload button: datasets, latents, 3D models, and a plain loader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy.simulator.machine.machine import Machine
from comfy.simulator.machine.node import Listing, NodeCall, NodeClass, NodeResult, Spec
from comfy.simulator.media.images import Pixels, load, save_png, to_pillow

_DATASETS = "comfy_extras.nodes_dataset"
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_FOLDER_NAME: Spec = ("STRING", {"default": "dataset"})
_PREFIX: Spec = ("STRING", {"default": "image"})
_MODE: Spec = (["overwrite", "increment"], {"default": "overwrite"})


def load_folder(call: NodeCall, folder: str) -> tuple[Pixels]:
    """The first picture of a folder of the input folder; like ComfyUI at first, it follows whatever it is told."""
    base = call.machine.paths.input_dir / folder
    names = sorted(entry.name for entry in base.iterdir() if entry.name.lower().endswith(_PICTURES))
    if not names:
        raise ValueError("No valid images found in input")
    return (load(base / names[0])[0],)


def save_to_folder(
    call: NodeCall, images: Pixels, folder_name: str, filename_prefix: str, mode: str, texts: str | None = None
) -> NodeResult:
    """Save a dataset, and report nothing of it. The prefix is joined to the folder as it is."""
    folder = call.machine.paths.output_dir / folder_name
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(to_pillow(images)):
        middle = f"{number + 1:05}_{number:05}" if mode == "increment" else f"{number:05}"
        path = folder / f"{filename_prefix}_{middle}.png"
        save_png(picture, path, None)
        if texts is not None:
            path.with_suffix(".txt").write_text(str(texts), encoding="utf-8")
    return NodeResult()


def read_size(call: NodeCall, **inputs: str) -> NodeResult:
    """How many bytes the named file has."""
    (name,) = inputs.values()
    size_bytes = call.machine.paths.input_file(name).stat().st_size
    return NodeResult(values=(str(size_bytes),), ui={"text": [f"{Path(name).suffix} {size_bytes}"]})


def join(_call: NodeCall, a: str, b: str) -> tuple[str]:
    return (a + b,)


def check_latent(machine: Machine, inputs: Mapping[str, Any]) -> dict[str, str]:
    name = inputs["latent"]
    if isinstance(name, str) and not machine.paths.input_file(name).is_file():
        return {"latent": f"Invalid latent file: {name}"}
    return {}


def _reader(name: str, input_name: str, lists: str, module: str, **how: Any) -> NodeClass:
    return NodeClass(
        name=name,
        run=read_size,
        category="loaders",
        module=module,
        required={input_name: (Listing(lists), how.pop("options", {}))},
        outputs=("STRING",),
        output_node=True,
        **how,
    )


NODES = (
    NodeClass(
        name="LoadImageDataSetFromFolder",
        run=load_folder,
        category="image",
        module=_DATASETS,
        required={"folder": (Listing("input/folders"), {})},
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="SaveImageDataSetToFolder",
        run=save_to_folder,
        category="image",
        module=_DATASETS,
        required={
            "images": ("IMAGE", {}),
            "folder_name": _FOLDER_NAME,
            "filename_prefix": _PREFIX,
            "mode": _MODE,
        },
        output_node=True,
    ),
    NodeClass(
        name="SaveImageTextDataSetToFolder",
        run=save_to_folder,
        category="image",
        module=_DATASETS,
        required={
            "images": ("IMAGE", {}),
            "texts": ("STRING", {}),
            "folder_name": _FOLDER_NAME,
            "filename_prefix": _PREFIX,
            "mode": _MODE,
        },
        output_node=True,
    ),
    _reader("LoadLatent", "latent", "input/.latent", "nodes", check=check_latent, checked_inputs=("latent",)),
    _reader("Load3D", "model_file", "input/3d", "comfy_extras.nodes_load_3d", options={"file_upload": True}),
    _reader("T_MeshLoad", "input_obj", "input/3d", "custom_nodes.simulated_pack", options={"file_upload": True}),
    _reader("T_PlainLoad", "document", "input/.pdf", "custom_nodes.simulated_pack"),
    NodeClass(
        name="StringConcatenate",
        run=join,
        category="utils/string",
        module="comfy_extras.nodes_string",
        required={"a": ("STRING", {}), "b": ("STRING", {})},
        outputs=("STRING",),
    ),
)
