"""Instances and their GPUs as they are now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from api.server.metrics.samples import Sample, View
from core.ledger.instances import HEALTHY, STOPPED
from core.ledger.metrics.fleet_state import GpuState
from core.metrics.family import counter, gauge
from core.records.scaling_rules import pool_name

GPUS: Final = gauge("comfyline_gpus", "GPUs by state, as comfyline gpus lists them.", "pool", "state")
BUSY_GPUS: Final = gauge("comfyline_gpus_busy", "GPUs that run a job now.", "pool")
UP: Final = gauge("comfyline_gpu_up", "Whether a GPU is healthy, and takes jobs.", "gpu")
BUSY: Final = gauge("comfyline_gpu_busy", "Whether a GPU runs a job now.", "gpu")
HELD: Final = gauge("comfyline_gpu_models_held", "Model files that an instance is taken to hold in memory.", "gpu")
RESTARTS: Final = counter(
    "comfyline_gpu_restarts_total", "Starts of an instance after the first, since its worker started.", "gpu"
)
VRAM: Final = gauge("comfyline_gpu_vram_bytes", "Memory of a GPU, as its instance says.", "gpu")
VRAM_USED: Final = gauge(
    "comfyline_gpu_vram_used_bytes",
    "What of it is in use, as the driver says (NVML), or an instance that is not ours.",
    "gpu",
)

FAMILIES = (GPUS, BUSY_GPUS, UP, BUSY, HELD, RESTARTS, VRAM, VRAM_USED)


def samples(view: View) -> Iterator[Sample]:
    """Yield them, where the ledger answers."""
    if view.fleet is None:
        return
    # So that "no healthy GPU" is a number too.
    states: Counter[tuple[str, str]] = Counter({(pool_name(gpu.pool), HEALTHY): 0 for gpu in view.fleet.gpus})
    states.setdefault((pool_name(None), HEALTHY), 0)
    busy: Counter[str] = Counter({pool: 0 for pool, _ in states})
    for gpu in view.fleet.gpus:
        pool = pool_name(gpu.pool)
        states[pool, gpu.state] += 1
        busy[pool] += gpu.is_busy
        # One whose worker was stopped is kept in the ledger for a day, and nobody misses it.
        if gpu.state != STOPPED:
            yield from _of_one(gpu)
    for labels, count in states.items():
        yield Sample(GPUS, labels, count)
    for pool, count in busy.items():
        yield Sample(BUSY_GPUS, (pool,), count)


def _of_one(gpu: GpuState) -> Iterator[Sample]:
    labels = (gpu.name,)
    yield Sample(UP, labels, gpu.state == HEALTHY)
    yield Sample(BUSY, labels, gpu.is_busy)
    yield Sample(HELD, labels, gpu.models_held)
    yield Sample(RESTARTS, labels, gpu.restarts)
    if gpu.vram_bytes is not None:
        yield Sample(VRAM, labels, gpu.vram_bytes)
    if gpu.vram_used_bytes is not None:
        yield Sample(VRAM_USED, labels, gpu.vram_used_bytes)
