"""How a prompt ended, and how ComfyUI words what a node raised."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from comfy.simulator.machine.vram import OutOfVideoMemory

#: What a node may fail with. Anything else kills the worker thread, as an error outside a node does in ComfyUI.
NODE_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)

_OUT_OF_MEMORY_TIPS = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have "
    "accidentally set the batch_size to a large number."
)


@dataclasses.dataclass(kw_only=True)
class RunResult:
    """How a prompt ended."""

    success: bool = True
    #: `(event, data)` in order, for the history.
    messages: list[tuple[str, dict[str, Any]]] = dataclasses.field(default_factory=list)
    outputs: dict[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    meta: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def history(self) -> dict[str, Any]:
        """The part of a history entry that the run decides."""
        status = {
            "status_str": "success" if self.success else "error",
            "completed": self.success,
            "messages": self.messages,
        }
        return {"outputs": self.outputs, "status": status, "meta": self.meta}


def describe_failure(exc: BaseException, inputs: Mapping[str, Any], all_ids: list[str]) -> dict[str, Any]:
    """The part of an `execution_error` that tells what went wrong; big inputs are shortened as arrays print."""
    tips = _OUT_OF_MEMORY_TIPS if isinstance(exc, OutOfVideoMemory) else ""
    return {
        "exception_message": f"{exc}\n{tips}",
        "exception_type": exception_name(exc),
        "traceback": traceback.format_tb(exc.__traceback__),
        "current_inputs": {name: [_shown_value(value)] for name, value in inputs.items()},
        "current_outputs": all_ids,
    }


def exception_name(exc: BaseException) -> str:
    """An exception's type as ComfyUI writes it."""
    if isinstance(exc, OutOfVideoMemory):
        return "torch.OutOfMemoryError"
    kind = type(exc)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _shown_value(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return f"tensor({np.array2string(value, separator=', ')})" if isinstance(value, np.ndarray) else str(value)
