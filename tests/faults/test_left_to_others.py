"""A GPU that holds the models loses its job, and leaves it to others, which load the models rather than wait for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from core.ledger import Ledger
from core.ledger.scheduling.avoidance import AVOID_MS
from tests.fleet import ALL, Fleet, sampled
from tests.waiting import until

#: Far longer than such a job runs, so that nobody loads while another one holds the models.
LOAD_S = 4
SOON_S = 30.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"simulated_gpus": "2", "host": "here", "lease_s": "4", "lease_renew_s": "0.5", "reconcile_s": "0.5"}
    args = f"--simulate-step-seconds 0.02 --simulate-load-seconds {LOAD_S} --simulate-vram-gb 24"
    with Fleet(tmp_path_factory.mktemp("left"), simulator_args=args, **settings) as fleet:
        yield fleet.start(*ALL).ready(gpus=2)


def instance_of(ledger: Ledger, job_id: str) -> str | None:
    job = ledger.jobs.get(job_id)
    return job.instance if job.status == "running" else None


def test_they_load_the_models_at_once(fleet: Fleet, ledger: Ledger) -> None:
    for seed in range(3):
        fleet.wait(fleet.submit(sampled(seed, steps=5)))
    [held_by] = [record.name for record in ledger.instances.all() if record.held]
    lost = fleet.submit(sampled(7, steps=2000))
    until(lambda: instance_of(ledger, lost) == held_by, what="the GPU that holds the models")

    pid = fleet.pool_pid(held_by.partition("@")[0])
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    assert SOON_S < AVOID_MS / 1000
    until(lambda: instance_of(ledger, lost) not in (None, held_by), what="the other GPU", timeout_s=SOON_S)
    fleet.cancel(lost)
