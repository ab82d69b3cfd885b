"""What pools of GPUs want and what waits for them, as the reconciler saw it last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from api.server.metrics.samples import Sample, View
from core.metrics.family import gauge

WANTED: Final = gauge("comfyline_pool_gpus_wanted", "GPUs that should take jobs, or be starting.", "pool")
REPLICAS: Final = gauge(
    "comfyline_pool_replicas_wanted",
    "The same and those that are there and serve nothing: what a replica count is set to.",
    "pool",
)
WORK: Final = gauge(
    "comfyline_pool_work_seconds", "Seconds of work that wait: of jobs (run), and of loads of models.", "kind", "pool"
)
OLDEST: Final = gauge(
    "comfyline_pool_oldest_wait_seconds", "How long the job that has waited longest has waited.", "pool"
)
IDLE: Final = gauge("comfyline_pool_gpus_idle", "GPUs that are ready and have nothing to do.", "pool")
LONGEST_IDLE: Final = gauge(
    "comfyline_pool_longest_idle_seconds", "How long the GPU that was idle longest has been so.", "pool"
)

FAMILIES = (WANTED, REPLICAS, WORK, OLDEST, IDLE, LONGEST_IDLE)


def samples(view: View) -> Iterator[Sample]:
    """Yield them, where the ledger answers and somebody has looked within a minute."""
    for pool in () if view.fleet is None else view.fleet.pools:
        labels = (pool.pool,)
        yield Sample(WANTED, labels, pool.gpus_wanted)
        yield Sample(REPLICAS, labels, pool.replicas_wanted)
        yield Sample(WORK, ("run", pool.pool), pool.run_s)
        yield Sample(WORK, ("load", pool.pool), pool.load_s)
        yield Sample(OLDEST, labels, pool.oldest_s)
        yield Sample(IDLE, labels, pool.idle)
        yield Sample(LONGEST_IDLE, labels, pool.longest_idle_s)
