"""SimulatedWork: a node that takes as long as it is told, for benchmarks and demonstrations."""

from __future__ import annotations

import time
from typing import Any

from comfy.simulator.machine.node import NodeCall, NodeClass

#: A long step still notices an interrupt within this.
_SLICE_S = 0.25


#: Busy in silence: so long it computes, and so long it lets the rest of the server run.
_BURN_S, _BREATH_S = 0.04, 0.01


def simulated_work(call: NodeCall, image: Any, seconds: float, steps: int, silent_cpu: bool = False) -> tuple[Any]:
    """Pass a picture through after `seconds`, with progress; 0 seconds costs nothing at all.

    `silent_cpu`: report nothing, and compute instead of waiting, as loading a model or encoding a video does.
    """
    call.hang_if_ordered()
    if seconds <= 0:
        return (image,)
    started_s = time.perf_counter()
    total_s = call.machine.gpu.scaled(seconds)
    if silent_cpu:
        _burn_until(call, started_s + total_s)
        return (image,)
    for step in range(1, steps + 1):
        # Against the start, not the last step, so that the cost of reporting does not add up.
        _wait_until(call, started_s + total_s * step / steps)
        call.step(step, steps)
    return (image,)


def _wait_until(call: NodeCall, moment_s: float) -> None:
    while (left_s := moment_s - time.perf_counter()) > 0:
        call.machine.interrupt.wait(min(left_s, _SLICE_S))


def _burn_until(call: NodeCall, moment_s: float) -> None:
    while (now_s := time.perf_counter()) < moment_s:
        while time.perf_counter() < now_s + _BURN_S:
            pass
        call.machine.interrupt.wait(_BREATH_S)


NODES = (
    NodeClass(
        name="SimulatedWork",
        run=simulated_work,
        category="simulator",
        display_name="Simulated Work",
        description="Passes a picture through after the given time. Not a node of ComfyUI.",
        module="comfy.simulator",
        required={
            "image": ("IMAGE", {}),
            "seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 3600.0, "step": 0.01}),
            "steps": ("INT", {"default": 10, "min": 1, "max": 10000}),
        },
        optional={"silent_cpu": ("BOOLEAN", {"default": False})},
        outputs=("IMAGE",),
    ),
)
