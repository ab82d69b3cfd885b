"""A small `/object_info`, as ComfyUI 0.3.64 and newer answer it, graphs for it, and what the checks say of them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from core.errors import InvalidWorkflow
from workflows.graphs.checks import check_graph

Nodes = dict[str, dict[str, Any]]

_SIZE = {"default": 512, "min": 1, "max": 16384, "step": 1}
_BATCH = {"default": 1, "min": 1, "max": 4096}


def node(
    required: dict[str, Any],
    output: list[Any],
    *,
    module: str = "nodes",
    optional: dict[str, Any] | None = None,
    saves: bool = False,
) -> dict[str, Any]:
    return {
        "input": {"required": required, "optional": optional or {}, "hidden": {"prompt": "PROMPT"}},
        "output": output,
        "output_node": saves,
        "python_module": module,
    }


CATALOGUE: dict[str, dict[str, Any]] = {
    "EmptyImage": node(
        {
            "width": ["INT", _SIZE],
            "height": ["INT", _SIZE],
            "batch_size": ["INT", _BATCH],
            "color": ["INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"}],
        },
        ["IMAGE"],
    ),
    "SaveImage": node(
        {
            "images": ["IMAGE", {"tooltip": "The images to save."}],
            "filename_prefix": ["STRING", {"default": "ComfyUI"}],
        },
        [],
        saves=True,
    ),
    "SaveLatent": node({"samples": ["LATENT", {}], "filename_prefix": ["STRING", {}]}, [], saves=True),
    "ImageInvert": node({"image": ["IMAGE"]}, ["IMAGE"]),
    "ImageScale": node(
        {
            "image": ["IMAGE"],
            "scale": ["FLOAT", {"min": 0.01, "max": 8.0}],
            "upscale_method": [["nearest-exact", "area"], {}],
            "crop": ["COMBO", {"options": ["disabled", "center"]}],
            "keep": ["BOOLEAN", {"default": False}],
        },
        ["IMAGE"],
        optional={"steps": ["INT", {"min": 0, "max": 10}], "mask": ["MASK"]},
    ),
    "LoadImage": node({"image": [["cat.png", "odd name (1).png"], {"image_upload": True}]}, ["IMAGE", "MASK"]),
    "LoadAudio": node({"audio": [["a.mp3"], {"audio_upload": True}]}, ["AUDIO"]),
    "LoadVideo": node({"file": ["COMBO", {"options": ["v.mp4"], "video_upload": True}]}, ["VIDEO"]),
    "LoadModel3D": node({"model": ["COMBO", {"options": ["m.glb"], "file_upload": True}]}, ["MESH"]),
    "LoadImageOutput": node(
        {
            "image": [
                "COMBO",
                {"image_upload": True, "image_folder": "output", "remote": {"route": "/internal/files/output"}},
            ]
        },
        ["IMAGE", "MASK"],
    ),
    "LoadLatent": node({"latent": [["l.latent"]]}, ["LATENT"]),
    "CheckpointLoaderSimple": node(
        {"ckpt_name": [[], {"tooltip": "The name of the checkpoint (model) to load."}]}, ["MODEL", "CLIP", "VAE"]
    ),
    "ManyLoras": node({"lora_name": [[f"secret-{n}.safetensors" for n in range(21)], {}]}, ["MODEL"]),
    "Tagger": node(
        {"tags": ["COMBO", {"options": ["a", "b", "c"], "multiselect": True}]},
        ["STRING"],
        optional={
            "voice": ["COMBO", {"remote": {"route": "/voices"}}],
            "style": ["COMBO", {"remote_combo": {"route": "/styles"}}],
        },
    ),
    "Values": node({}, ["INT", "FLOAT", "STRING", "BOOLEAN", "*", "INT,FLOAT", ["disabled", "center"], "COMBO"]),
    "PreviewAny": node({"source": ["*", {}]}, [], saves=True),
    "Needs": node(
        {},
        [],
        optional={
            "int": ["INT", {}],
            "number": ["FLOAT,INT", {"min": 0}],
            "string": ["STRING", {}],
            "old_combo": [["disabled", "center"], {}],
            "combo": ["COMBO", {"options": ["disabled", "center"]}],
            "any": ["*"],
            "match": ["COMFY_MATCHTYPE_V3", {"template": {"template_id": "t", "allowed_types": "*"}}],
            "curve": ["CURVE", {}],
        },
        saves=True,
    ),
    "Switch": node({"switch": ["BOOLEAN", {}], "on": ["COMFY_MATCHTYPE_V3", {"template": {}}]}, ["COMFY_MATCHTYPE_V3"]),
    "BatchImages": node(
        {
            "images": [
                "COMFY_AUTOGROW_V3",
                {"template": {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 2, "max": 50}},
            ]
        },
        ["IMAGE"],
    ),
    "Resize": node(
        {
            "input": ["COMFY_MATCHTYPE_V3", {"template": {}}],
            "mode": [
                "COMFY_DYNAMICCOMBO_V3",
                {
                    "options": [
                        {"key": "size", "inputs": {"required": {"width": ["INT", {"min": 0, "max": 16384}]}}},
                        {"key": "file", "inputs": {"optional": {"like": [["cat.png"], {"image_upload": True}]}}},
                    ]
                },
            ],
            "rows": ["COMFY_DYNAMICGROUP_V3", {"template": {"required": {"text": ["STRING", {}], "n": ["INT", {}]}}}],
            "future": ["COMFY_SOMETHING_V3", {"shape": 1}],
        },
        ["COMFY_MATCHTYPE_V3"],
    ),
    # Of a pack: what it shows of types, ranges and lists is not all it knows.
    "Pack": node(
        {},
        ["INT"],
        optional={
            "choice": [["a", "b"], {}],
            "size": ["INT", {"min": 0, "max": 10}],
            "number": ["FLOAT", {"min": 1}],
            "sampler": ["COMBO", {}],
            "file": [["cat.png"], {"image_upload": True}],
        },
        module="custom_nodes.pack",
        saves=True,
    ),
    "Strict": node(
        {"needed": ["INT", {}]}, [], optional={"other": ["INT", {}]}, module="custom_nodes.pack", saves=True
    ),
    "Grows": node({}, [], optional={}, module="custom_nodes.pack", saves=True),
    "LoadTrainingDataset": node({"folder_name": ["STRING", {}]}, ["LATENT"]),
    "CheckpointSave": node({"model": ["MODEL"]}, [], saves=True),
}


def image_graph() -> Nodes:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }


def refused(graph: Nodes, **options: Any) -> dict[str, Any]:
    """The `node_errors` of a graph that must be refused; checks what holds for all of them."""
    before = copy.deepcopy(graph)
    with pytest.raises(InvalidWorkflow) as caught:
        check_graph(graph, CATALOGUE, **options)
    assert graph == before
    text = json.dumps(caught.value.node_errors)
    assert not any(word in text for word in ("traceback", "exception_type", "/opt/"))
    assert len(caught.value.message) < 1000
    return caught.value.node_errors


def first(graph: Nodes, node_id: str, **options: Any) -> dict[str, Any]:
    """The first error of one node of a graph that must be refused."""
    found: dict[str, Any] = refused(graph, **options)[node_id]["errors"][0]
    return found


def with_input(class_type: str, name: str, value: Any, **others: Any) -> Nodes:
    """A graph that runs one node, `n`, with one input under test."""
    graph: Nodes = {
        "n": {"class_type": class_type, "inputs": {**others, name: value}},
        "image": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "values": {"class_type": "Values", "inputs": {}},
    }
    if not CATALOGUE[class_type]["output_node"]:
        graph["out"] = {"class_type": "PreviewAny", "inputs": {"source": ["n", 0]}}
    return graph


def ring(length: int) -> Nodes:
    graph: Nodes = {
        f"r{n}": {"class_type": "ImageInvert", "inputs": {"image": [f"r{(n + 1) % length}", 0]}} for n in range(length)
    }
    return graph | {"out": {"class_type": "SaveImage", "inputs": {"images": ["r0", 0], "filename_prefix": "x"}}}


def chain(length: int) -> Nodes:
    graph = image_graph()
    for n in range(3, length + 1):
        graph[str(n)] = {"class_type": "ImageInvert", "inputs": {"image": ["1" if n == 3 else str(n - 1), 0]}}
    graph["2"]["inputs"]["images"] = [str(length), 0]
    return graph


def with_checkpoints(*names: str) -> dict[str, Any]:
    """The catalogue of an instance that has these checkpoints."""
    catalogue: dict[str, Any] = copy.deepcopy(CATALOGUE)
    catalogue["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] = list(names)
    return catalogue


def loading(name: str) -> Nodes:
    """A graph that loads a checkpoint."""
    return with_input("CheckpointLoaderSimple", "ckpt_name", name)
