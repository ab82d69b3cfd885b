"""Graphs from the field, and what current ComfyUI servers said of each on `POST /prompt`."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy.simulator.machine.faults import Faults
from comfy.simulator.machine.hub import Hub
from comfy.simulator.machine.machine import Machine
from comfy.simulator.machine.node import object_info
from comfy.simulator.machine.options import parse_options
from comfy.simulator.machine.paths import Paths
from comfy.simulator.machine.vram import SimulatedGpu
from comfy.simulator.nodes.registry import build_registry

Nodes = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class FieldGraph:
    """One graph and its verdict: accept, refuse, or partial (some of its outputs run)."""

    name: str
    server: str
    _graph: Nodes

    @property
    def graph(self) -> Nodes:
        return copy.deepcopy(self._graph)

    @property
    def classes(self) -> set[str]:
        return {node["class_type"] for node in self._graph.values()}


def field_graphs() -> list[FieldGraph]:
    text = (Path(__file__).parent / "data" / "field_graphs.json").read_text(encoding="utf-8")
    return [
        FieldGraph(name=name, server=each["server"], _graph=each["graph"]) for name, each in json.loads(text).items()
    ]


def make_files(input_dir: Path, output_dir: Path) -> None:
    """The files that the graphs name."""
    from PIL import Image

    for path in ("example.png", "画像 ä (1).png", "sub/dir/a.png"):
        (input_dir / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(input_dir / path)
    output_dir.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(output_dir / "kept.png")


def simulated_catalogue(root: Path) -> dict[str, Any]:
    """The stand-in's `/object_info`, without a server, and the classes of the graphs that it does not have."""
    options = parse_options(["--base-directory", str(root), "--user-directory", str(root), "--simulate-test-nodes"])
    paths = Paths(input_dir=options.input_dir, output_dir=options.output_dir, temp_dir=options.temp_dir)
    paths.prepare()
    make_files(options.input_dir, options.output_dir)
    faults = Faults()
    gpu = SimulatedGpu(room=options.room, costs=options.load_costs, speed=0)
    machine = Machine(options=options, paths=paths, gpu=gpu, hub=Hub(faults), faults=faults)
    classes = build_registry(test_nodes=True)
    simulated = {name: object_info(node, machine) for name, node in classes.items()}
    catalogue: dict[str, Any] = _FURTHER | json.loads(json.dumps(simulated)) | _NEWER
    return catalogue


def _described(
    module: str,
    required: dict[str, Any],
    output: list[Any],
    *,
    optional: dict[str, Any] | None = None,
    saves: bool = False,
) -> dict[str, Any]:
    return {
        "input": {"required": required, "optional": optional or {}},
        "output": output,
        "output_node": saves,
        "python_module": module,
    }


_AUDIO, _TEXT, _IMAGES = {"audio": ["AUDIO", {}]}, ["STRING", {}], ["IMAGE", {}]
_PREFIX = {"filename_prefix": ["STRING", {"default": "audio/ComfyUI"}]}
_FURTHER = {
    "EmptyAudio": _described(
        "comfy_extras.nodes_audio",
        {
            "duration": ["FLOAT", {"default": 60.0, "min": 0.0}],
            "sample_rate": ["INT", {"min": 1, "max": 192000}],
            "channels": ["INT", {"min": 1, "max": 2}],
        },
        ["AUDIO"],
    ),
    "SaveAudio": _described("comfy_extras.nodes_audio", _AUDIO | _PREFIX, [], saves=True),
    "SaveAudioMP3": _described(
        "comfy_extras.nodes_audio",
        _AUDIO | _PREFIX,
        [],
        optional={"quality": ["COMBO", {"options": ["V0", "128k", "320k"]}]},
        saves=True,
    ),
    "PreviewAudio": _described("comfy_extras.nodes_audio", _AUDIO, [], saves=True),
    "SaveWEBM": _described(
        "comfy_extras.nodes_video",
        {
            "images": _IMAGES,
            "codec": ["COMBO", {"options": ["vp9", "av1"]}],
            "fps": ["FLOAT", {"min": 0.01, "max": 1000.0}],
            "crf": ["FLOAT", {"min": 0, "max": 63.0}],
        }
        | _PREFIX,
        [],
        saves=True,
    ),
    "ImageCompare": _described(
        "comfy_extras.nodes_image_compare",
        {"compare_view": ["IMAGECOMPARE", {}]},
        [],
        optional={"image_a": _IMAGES, "image_b": _IMAGES},
        saves=True,
    ),
    "SaveImageAdvanced": _described(
        "comfy_extras.nodes_images",
        {
            "images": _IMAGES,
            "format": [
                "COMFY_DYNAMICCOMBO_V3",
                {
                    "options": [
                        {
                            "key": "png",
                            "inputs": {
                                "required": {
                                    "bit_depth": ["COMBO", {"options": ["8-bit", "16-bit"]}],
                                    "input_color_space": ["COMBO", {"options": ["sRGB", "linear"]}],
                                }
                            },
                        }
                    ]
                },
            ],
        }
        | _PREFIX,
        [],
        saves=True,
    ),
    "SaveImageDataSetToFolder": _described(
        "comfy_extras.nodes_dataset",
        {"images": _IMAGES, "folder_name": _TEXT, "mode": ["COMBO", {"options": ["overwrite", "append"]}]} | _PREFIX,
        [],
        saves=True,
    ),
    "T_Fails": _described("custom_nodes.simulated_pack", {"how": [["none"], {}], "image": _IMAGES}, ["IMAGE"]),
    "T_NeedsPngInfo": _described("custom_nodes.simulated_pack", {"text": _TEXT}, [], saves=True),
    "T_OddOutputs": _described("custom_nodes.simulated_pack", {"kind": [["none"], {}], "tag": _TEXT}, [], saves=True),
}
#: Classes as later releases have them.
_NEWER = {
    "SaveVideo": _described(
        "comfy_extras.nodes_video",
        {
            "video": ["VIDEO", {}],
            "format": [
                "COMFY_DYNAMICCOMBO_V3",
                {"options": [{"key": "auto", "inputs": {"required": {"codec": ["COMBO", {"options": [None]}]}}}]},
            ],
        }
        | _PREFIX,
        [],
        saves=True,
    ),
}
