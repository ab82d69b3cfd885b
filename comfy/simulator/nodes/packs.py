"""Nodes that behave as those of popular packs do: they judge their own inputs, and bring types of their own.

`/object_info` shows none of that, and only the server can say what they take.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy.simulator.machine.machine import Machine
from comfy.simulator.machine.node import Inputs, NodeCall, NodeClass, NodeResult, Spec
from comfy.simulator.media.images import Pixels, save_png, to_pillow

_MODULE = "custom_nodes.simulated_pack"
_CHOICES = ["a", "b"]
_OWN_CHECK: Inputs = {
    "choice": (["first", "second"], {}),
    "size": ("INT", {"default": 1, "min": 0, "max": 10}),
    "other": (["x", "y"], {}),
}


def show(_call: NodeCall, **inputs: Any) -> NodeResult:
    return NodeResult(values=(str(inputs), 1), ui={"text": [str(inputs)]})


def options(_call: NodeCall, **inputs: Any) -> tuple[Any, ...]:
    return ("a", inputs["new_form"], 1.0)


def first_of(_call: NodeCall, anything: Any = None, **_others: Any) -> tuple[Any]:
    return (anything,)


def pictures(_call: NodeCall, images: Pixels, **_others: Any) -> NodeResult:
    return NodeResult(values=(len(images),), ui={"text": [str(len(images))]})


def save_kj(
    call: NodeCall, images: Pixels, filename_prefix: str, output_folder: str, caption: str | None = None
) -> NodeResult:
    """Make a path of the prefix, and a place of this machine of every folder but its default; report nothing."""
    where = call.machine.paths.save_path(filename_prefix, "output")
    if output_folder != "output":
        where = dataclasses.replace(where, folder=Path(output_folder))
        where.folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(to_pillow(images)):
        path = where.folder / where.file_name(number, "png")
        save_png(picture, path, None)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return NodeResult(values=(path.name,))


def check_choice(_machine: Machine, inputs: Mapping[str, Any]) -> dict[str, str]:
    return {"choice": "It must be a word."} if inputs.get("choice") == "refused" else {}


def _own_check(name: str, **how: Any) -> NodeClass:
    return NodeClass(
        name=name,
        run=show,
        category="pack",
        module=_MODULE,
        required=_OWN_CHECK,
        outputs=("STRING", "INT"),
        check=check_choice,
        **how,
    )


_NUMBER: Spec = ("FLOAT", {"default": 8, "min": 1, "step": 1})

NODES = (
    _own_check("T_OwnCheck", checked_inputs=("choice",)),
    _own_check("T_OwnCheckAll", checks_everything=True),
    NodeClass(
        name="T_OwnLinks",
        run=show,
        category="pack",
        module=_MODULE,
        optional={"picture": ("IMAGE", {}), "count": ("INT", {"min": 0, "max": 3})},
        outputs=("STRING",),
        checks_links=True,
        output_node=True,
    ),
    NodeClass(
        name="T_Combos",
        run=options,
        category="pack",
        module=_MODULE,
        required={
            "ints": ([1, 2, 3], {}),
            "bools": ([True, False], {}),
            "floats": ([0.5, 1.0], {}),
            "mixed": ([None, 2.5, "a"], {}),
            "new_form": ("COMBO", {"options": ["p", "q"]}),
        },
        optional={
            "unicode": (["ä/ö.safetensors", "a\\b.safetensors"], {}),
            "many": ("COMBO", {"options": ["r", "s", "t"], "multiselect": True}),
            "empty": ([], {}),
            "no_options": ("COMBO", {}),
            "remote": ("COMBO", {"remote": {"route": "/voices"}}),
        },
        outputs=(_CHOICES, "COMBO", "FLOAT"),
        output_names=("old", "new", "number"),
    ),
    NodeClass(
        name="T_TakesCombo",
        run=show,
        category="pack",
        module=_MODULE,
        optional={
            "old": (_CHOICES, {}),
            "new": ("COMBO", {"options": _CHOICES}),
            "number": ("INT,FLOAT", {}),
            "union": ("STRING,INT", {}),
        },
        output_node=True,
    ),
    NodeClass(
        name="T_VideoLike",
        run=pictures,
        category="pack",
        module=_MODULE,
        required={
            "images": ("IMAGE", {}),
            "frame_rate": _NUMBER,
            "format": (["video/mp4", "image/gif"], {}),
            "filename_prefix": ("STRING", {"default": "v"}),
        },
        outputs=("INT",),
        secretly_takes={"images": frozenset({"LATENT"}), "frame_rate": frozenset({"INT"})},
        checks_everything=True,
        accepts_all_inputs=True,
        output_node=True,
    ),
    NodeClass(
        name="SaveImageKJ",
        run=save_kj,
        category="pack",
        module=_MODULE,
        required={
            "images": ("IMAGE", {}),
            "filename_prefix": ("STRING", {"default": "ComfyUI"}),
            "output_folder": ("STRING", {"default": "output"}),
        },
        optional={"caption": ("STRING", {"forceInput": True})},
        outputs=("STRING",),
        output_node=True,
    ),
    NodeClass(
        name="T_Wildcard",
        run=first_of,
        category="pack",
        module=_MODULE,
        required={"anything": ("*", {})},
        optional={"extra": ("*", {})},
        outputs=("*",),
        answers_any_slot=True,
    ),
    NodeClass(
        name="画像 Node (pack)|x",
        run=first_of,
        category="pack",
        module=_MODULE,
        required={"anything": ("*", {})},
        outputs=("*",),
    ),
)
