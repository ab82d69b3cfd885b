"""A node that reports results in every odd shape that nodes of custom packs report them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from comfy.simulator.machine.node import NodeCall, NodeClass, NodeResult


def report_oddly(call: NodeCall, kind: str, tag: str) -> NodeResult:
    return NodeResult(ui=_KINDS[kind](call, tag))


def _saved(call: NodeCall, name: str, subfolder: str = "", kind: str = "output") -> dict[str, str]:
    base = call.machine.paths.by_type(kind)
    assert base is not None
    (base / subfolder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(base / subfolder / name, "PNG")
    return {"filename": name, "subfolder": subfolder, "type": kind}


def _with_good(call: NodeCall, tag: str, **bad: Any) -> Mapping[str, Any]:
    return {"images": [_saved(call, f"good_{tag}.png"), {"subfolder": "", "type": "output", **bad}]}


_KINDS: dict[str, Callable[[NodeCall, str], Mapping[str, Any]]] = {
    "absolute": lambda call, tag: _with_good(call, tag, filename="/etc/hostname"),
    "dots": lambda call, tag: _with_good(call, tag, filename="x.png", subfolder="../.."),
    "two_dots": lambda call, tag: _with_good(call, tag, filename="a..b.png"),
    "missing": lambda call, tag: _with_good(call, tag, filename=f"missing_{tag}.png"),
    "nul": lambda call, tag: _with_good(call, tag, filename="a\0b.png"),
    "long": lambda call, tag: _with_good(call, tag, filename="x" * 3000 + ".png"),
    "only_missing": lambda _call, _tag: {"images": [{"filename": "no.png", "subfolder": "", "type": "output"}]},
    "repeat": lambda call, tag: {"images": [_saved(call, f"{tag}.png")] * 2},
    "folder_in_name": lambda call, tag: {
        "images": [_saved(call, f"{tag}.png", "deep") | {"filename": f"deep/{tag}.png", "subfolder": ""}]
    },
    "input": lambda call, tag: {"images": [_saved(call, f"shown_{tag}.png", kind="input")]},
    "number": lambda _call, _tag: {"text": [3, 2.5, True], "count": [7]},
    "dict_text": lambda _call, tag: {"text": [{"tag": tag, "boxes": [[1, 2], [3, 4]]}]},
    "tags": lambda _call, tag: {"tags": [tag, "b", "c"], "caption": ["one"], "animated": [False]},
    "nan": lambda _call, _tag: {"text": [float("nan")], "scores": [float("inf"), 1.0]},
    "none": lambda _call, _tag: {"text": None, "images": [None], "values": []},
    "string": lambda _call, tag: {"images": f"{tag}.png", "note": tag},
    "tuple": lambda _call, tag: {"text": (tag, tag), "pair": ((1, 2), "x")},
    "big_text": lambda _call, tag: {"text": [f"{tag}é" * 1_000_000], "boxes": [[0, 1]] * 50_000},
    "nested": lambda _call, _tag: {"model_3d": {"mesh": {"vertices": [[0, 0, 1]]}}},
    "key": lambda _call, tag: {"k" * 300: [tag], "nul\0key": [tag]},
}


def need_pnginfo(call: NodeCall, text: str) -> NodeResult:
    """Read the editor's workflow, as some packs do without asking whether it is there."""
    workflow = call.extra_data["extra_pnginfo"]["workflow"]
    return NodeResult(ui={"text": [f"{text}: {len(workflow['nodes'])} nodes"]})


NODES = (
    NodeClass(
        name="T_NeedsPngInfo",
        run=need_pnginfo,
        category="test",
        required={"text": ("STRING", {"default": ""})},
        hidden={"extra_pnginfo": "EXTRA_PNGINFO"},
        output_node=True,
    ),
    NodeClass(
        name="T_Odd",
        run=report_oddly,
        category="test",
        required={"kind": (list(_KINDS), {}), "tag": ("STRING", {"default": ""})},
        output_node=True,
    ),
)
