"""A workflow that an instance runs after its start, so that the first job finds models loaded and kernels built."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy.prompts.session import ComfySession
from core.errors import ComfylineError, ComfyOutOfMemory, ComfyUnavailable, ConfigurationError, PromptFailed
from core.storage.job_files import is_prefix

#: Where the files of a warm-up go, below the instance's output directory.
FOLDER = "warmup"


def warm_up(base_url: str, graph: Mapping[str, Any], *, timeout_s: float) -> float:
    """Run one prompt to its end and return its seconds. Its files stay in the folder `warmup`.

    It cannot be called off, but whoever ends the instance ends it too, within seconds.

    Parameters:
      graph: in API format, as `load_workflow` returns it.
      timeout_s: the prompt is interrupted after that.
    Raises:
      ComfyUnavailable: the instance did not run it whole, for whatever reason; the message gives it.
    """
    began_s = time.monotonic()
    try:
        with ComfySession(base_url) as session:
            session.submit(_in_own_folder(graph), prompt_id=str(uuid.uuid4())).wait(timeout_s=timeout_s)
    except ComfylineError as exc:
        raise ComfyUnavailable(f"The warm-up workflow failed: {_reason(exc)}") from exc
    return time.monotonic() - began_s


def load_workflow(path: Path) -> dict[str, Any]:
    """Read a graph in API format, `{node_id: {"class_type", "inputs"}}`, from a file.

    Raises:
      ConfigurationError: there is no such file, or it holds something else.
    """
    setting = f"COMFYLINE_WARMUP_WORKFLOW={path}"
    try:
        value = json.loads(path.expanduser().read_bytes())
    except OSError as exc:
        raise ConfigurationError(f"{setting} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigurationError(f"{setting} is not JSON: {exc}") from exc
    if isinstance(value, dict) and isinstance(value.get("nodes"), list):
        raise ConfigurationError(
            f"{setting} is in the editor's save format. In ComfyUI choose Workflow menu -> Export (API), and name the "
            "file you get."
        )
    if not isinstance(value, dict) or not value or not all(_is_node(node) for node in value.values()):
        raise ConfigurationError(
            f"{setting} is not a workflow in API format, an object of node id -> {{class_type, inputs}}."
        )
    return value


def _is_node(value: object) -> bool:
    return (
        isinstance(value, dict) and isinstance(value.get("class_type"), str) and isinstance(value.get("inputs"), dict)
    )


def _in_own_folder(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy whose save nodes write into the folder `warmup`."""
    return {node_id: {**node, "inputs": _inputs(node["inputs"])} for node_id, node in graph.items()}


def _inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: f"{FOLDER}/ComfyUI" if is_prefix(name) else value for name, value in inputs.items()}


def _reason(error: ComfylineError) -> str:
    if isinstance(error, ComfyOutOfMemory | PromptFailed) and error.node_id is not None:
        return f"node {error.node_id} ({error.node_class}): {error.message}"
    return error.message
