"""The sample workflows that come with the project, as graphs ready to submit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.errors import NotFound
from workflows.graphs.graph import Graph, parse_graph

#: `demo` needs the model it names (the simulator has it); `image_only` needs no model and runs on any ComfyUI.
_NAMES = ("demo", "image_only")
_FOLDER = Path(__file__).parent.parent


def sample_names() -> list[str]:
    return list(_NAMES)


def sample(name: str) -> Graph:
    """A fresh copy of one sample. Raises `NotFound` for a name that `sample_names` does not list."""
    if name not in _NAMES:
        raise NotFound(f"There is no sample workflow of that name; there are: {', '.join(_NAMES)}.")
    value: Any = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return parse_graph(value)
