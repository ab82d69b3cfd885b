"""Nodes that misbehave on purpose: slow, failing, mute, blocking, expanding, lazy, in the background, not JSON."""

from __future__ import annotations

import ctypes
import random
import string
import time
from collections.abc import Mapping
from typing import Any

from comfy.simulator.machine.hub import text_frame
from comfy.simulator.machine.node import Blocker, NodeCall, NodeClass, NodeResult, Spec
from comfy.simulator.machine.vram import OutOfVideoMemory
from comfy.simulator.media.images import Pixels, save_png, to_pillow
from comfy.simulator.nodes.files import save_pngs

_IMAGE: Spec = ("IMAGE", {})
_LAZY_IMAGE: Spec = ("IMAGE", {"lazy": True})
_DELAY: Spec = ("FLOAT", {"default": 0.1, "min": 0.0, "max": 3600.0})


_MESSAGES = {
    "runtime": "boom",
    "long": "begin " + 3_000_000 * "x" + " end",
    "place": "POST http://127.0.0.1:8188/upload: no such file: '/opt/models/loras/a b.safetensors', /opt/models/c.pt",
    "unicode": "half of a pair: \ud83d",
}


def slow(call: NodeCall, image: Pixels, steps: int, delay: float) -> tuple[Pixels]:
    """`steps` times `delay` seconds, each with a preview."""
    preview = to_pillow(image[:1])[0]
    for step in range(1, steps + 1):
        call.hang_if_ordered()
        call.machine.gpu.sleep(delay)
        call.step(step, steps, preview)
    return (image,)


def mute(_call: NodeCall, image: Pixels, seconds: float, works: bool) -> tuple[Pixels]:
    """Hold the interpreter's lock for so long, in one call: no thread of this process runs, so nothing is answered.

    `works`: compute meanwhile, as an extension that unwraps a mesh does; else only wait, as one that asks a driver.
    """
    if works:
        # A loop that never leaves C, and so never comes to where the interpreter would let another thread run.
        all(map((time.perf_counter() + seconds).__gt__, iter(time.perf_counter, None)))
    else:
        # `PyDLL`, unlike `CDLL`, keeps the lock while the foreign function runs.
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return (image,)


def say(call: NodeCall, image: Pixels, text: str, times: int) -> tuple[Pixels]:
    """Print a text, as nodes do with what they were given; `%d` in it counts."""
    for time_ in range(times):
        call.machine.log(text.replace("%d", str(time_)))
    return (image,)


def fail(_call: NodeCall, image: Pixels, kind: str) -> tuple[Pixels]:  # noqa: ARG001 - shown as current input
    if kind == "oom":
        raise OutOfVideoMemory("Allocation on device")
    raise RuntimeError(_MESSAGES[kind])


def block(_call: NodeCall, image: Pixels, message: str) -> tuple[Blocker]:  # noqa: ARG001
    return (Blocker(message=message or None),)


def expand(_call: NodeCall, image: Pixels) -> NodeResult:
    """Two inversions and a preview take this node's place."""
    graph = {
        "1": {"class_type": "ImageInvert", "inputs": {"image": image}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    return NodeResult(values=(["2", 0],), expand=graph)


def glance(call: NodeCall, image: Pixels) -> NodeResult:
    """Show a picture and hand it on, as samplers of some packs do."""
    suffix = "".join(random.choice(string.ascii_lowercase) for _ in range(5))  # noqa: S311 - a name, not a secret
    return NodeResult(values=(image,), ui={"images": save_pngs(call, image, f"glance_{suffix}", "temp")})


def save_fixed(call: NodeCall, image: Pixels, name: str) -> NodeResult:
    """Write over one file of the output folder, whoever made it."""
    save_png(to_pillow(image[:1])[0], call.machine.paths.output_dir / name, None)
    return NodeResult(ui={"images": [{"filename": name, "subfolder": "", "type": "output"}]})


def choose(_call: NodeCall, pick: str, a: Pixels | None, b: Pixels | None) -> tuple[Pixels | None]:
    """One of two pictures; the node behind the other one does not run for this."""
    return (a if pick == "a" else b,)


def _chosen(inputs: Mapping[str, Any]) -> tuple[str]:
    return (str(inputs["pick"]),)


def in_background(call: NodeCall, image: Pixels, delay: float) -> tuple[Pixels]:
    call.machine.gpu.sleep(delay)
    return (image,)


def progress_text(call: NodeCall, image: Any, text: str) -> NodeResult:  # noqa: ARG001
    """Send a text frame to everybody, as a node does that names no client."""
    call.machine.hub.publish_frame(text_frame(call.node_id, text), None)
    return NodeResult(ui={"text": [str(time.time())]})


def not_json(_call: NodeCall, image: Any) -> NodeResult:  # noqa: ARG001
    return NodeResult(ui={"text": [{1, 2, 3}]})


NODES = (
    NodeClass(
        name="T_Slow",
        run=slow,
        category="test",
        required={
            "image": _IMAGE,
            "steps": ("INT", {"default": 3, "min": 1, "max": 10000}),
            "delay": _DELAY,
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="T_Say",
        run=say,
        category="test",
        required={
            "image": _IMAGE,
            "text": ("STRING", {"default": "", "multiline": True}),
            "times": ("INT", {"default": 1, "min": 0, "max": 100000}),
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="T_Mute",
        run=mute,
        category="test",
        required={
            "image": _IMAGE,
            "seconds": ("FLOAT", {"default": 12.0, "min": 0.0, "max": 3600.0}),
            "works": ("BOOLEAN", {"default": True}),
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="T_Err",
        run=fail,
        category="test",
        required={"image": _IMAGE, "kind": (["oom", *_MESSAGES], {})},
        outputs=("IMAGE",),
    ),
    NodeClass(
        name="T_Block",
        run=block,
        category="test",
        required={"image": _IMAGE, "message": ("STRING", {"default": "blocked!"})},
        outputs=("IMAGE",),
    ),
    NodeClass(name="T_Expand", run=expand, category="test", required={"image": _IMAGE}, outputs=("IMAGE",)),
    NodeClass(
        name="T_Glance",
        run=glance,
        category="test",
        required={"image": _IMAGE},
        outputs=("IMAGE",),
        output_node=True,
    ),
    NodeClass(
        name="T_SaveFixed",
        run=save_fixed,
        category="test",
        required={"image": _IMAGE, "name": ("STRING", {"default": "fixed.png"})},
        output_node=True,
    ),
    NodeClass(
        name="T_Lazy",
        run=choose,
        category="test",
        required={"pick": (["a", "b"], {}), "a": _LAZY_IMAGE, "b": _LAZY_IMAGE},
        outputs=("IMAGE",),
        lazy_needs=_chosen,
    ),
    NodeClass(
        name="T_Async",
        run=in_background,
        category="test",
        required={"image": _IMAGE, "delay": _DELAY},
        outputs=("IMAGE",),
        background=True,
    ),
    NodeClass(
        name="T_Text",
        run=progress_text,
        category="test",
        required={"image": ("*", {}), "text": ("STRING", {"default": "hello"})},
        output_node=True,
    ),
    NodeClass(name="T_NotJson", run=not_json, category="test", required={"image": ("*", {})}, output_node=True),
)
