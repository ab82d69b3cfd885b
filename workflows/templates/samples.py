"""The sample workflows that come with the project, as graphs ready to submit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.errors import NotFound
from workflows.graphs.graph import Graph, parse_graph

#: `demo` needs the model it names (the simulator has it); `image_only` needs no model and runs on any ComfyUI.
NAMES = ("demo", "image_only")
_FOLDER = Path(__file__).parent.parent


def sample(name: str) -> Graph:
    """Return a fresh copy of one sample. Raises `NotFound` for a name that is not in `NAMES`."""
    if name not in NAMES:
        raise NotFound(f"There is no sample workflow of that name; there are: {', '.join(NAMES)}.")
    value: Any = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return parse_graph(value)
