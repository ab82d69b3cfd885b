"""A tenant that may run one job at once: a GPU is woken when that ends, and takes the slot of a dead worker's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.fleet import Fleet, work

#: Ticks of the reconciler are a minute apart, so that what is prompt is not their work.
TICK_S, SOON_S = 60.0, 15.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two GPUs, of two pools."""
    settings = {"simulated_gpus": "2", "host": "here", "tenant_max_running": "1", "reconcile_s": str(TICK_S)}
    settings |= {"lease_s": "4", "lease_renew_s": "0.5", "simulator_args": "--simulate-test-nodes"}
    with Fleet(tmp_path_factory.mktemp("gates"), **settings) as fleet:
        fleet.start("broker", "api", "io", "beat")
        for name, pool in (("gpu0", "left"), ("gpu1", "right")):
            fleet.reconfigure(pool=pool)
            fleet.start(name)
        yield fleet.ready(gpus=2)


def instant(job: dict[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(job[name].rstrip("Z"))


def reason(fleet: Fleet, job_id: str) -> str:
    return str((fleet.job(job_id)["queue"] or {})["reason"])


def test_an_idle_gpu_is_woken_when_the_job_before_has_ended(fleet: Fleet) -> None:
    first = fleet.submit(work(6, seed=1), requires={"pool": "left"})
    fleet.wait(first, "running")
    second = fleet.submit(work(0.2, seed=2), requires={"pool": "right"})
    assert reason(fleet, second).startswith("Its tenant runs 1 of 1 job")
    ended, begun = fleet.wait(first, "succeeded"), fleet.wait(second, "succeeded")
    assert begun["instance"] == "gpu1@here"
    waited_s = (instant(begun, "started_at") - instant(ended, "completed_at")).total_seconds()
    assert -1 < waited_s < SOON_S < TICK_S, "the GPU lets go before the files are stored"


def test_the_slot_of_a_killed_worker_is_free_when_its_lease_has_lapsed(fleet: Fleet) -> None:
    fleet.stop("beat")
    fleet.stop("io")
    fleet.reconfigure(reconcile_s="0.5")
    fleet.start("io", "beat")
    lost = fleet.submit(work(60, seed=3), requires={"pool": "left"})
    fleet.wait(lost, "running")
    waiting = fleet.submit(work(0.2, seed=4), requires={"pool": "right"})
    fleet.kill("gpu0")
    assert fleet.job(waiting)["status"] == "queued"
    assert fleet.wait(waiting, "succeeded")["instance"] == "gpu1@here"
    assert fleet.job(lost)["status"] == "queued", "its GPU is gone"
    fleet.cancel(lost)
