"""GPUs in pools: a job that requires one runs there and nowhere else, and waits while its only GPU is gone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest

from core.ledger import Ledger
from tests.fleet import Fleet, work
from tests.receivers import Receiver, receiving
from tests.waiting import until

LATE_S = 3.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two GPUs of two pools; ticks of the reconciler are a minute apart, so that what is prompt is not their work."""
    settings = {"simulated_gpus": "2", "lease_renew_s": "0.5", "reconcile_s": "60", "host": "here"}
    settings |= {"simulator_args": "--simulate-test-nodes --simulate-speed 10"}
    with Fleet(tmp_path_factory.mktemp("pools"), **settings) as fleet:
        fleet.start("broker", "api", "io", "beat")
        for name, pool in (("gpu0", "left"), ("gpu1", "right")):
            fleet.reconfigure(pool=pool)
            fleet.start(name)
        yield fleet.ready(gpus=2)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def test_a_job_runs_in_its_pool_and_nowhere_else(fleet: Fleet) -> None:
    job_ids = [fleet.submit(work(0.2, seed=seed), requires={"pool": "right"}) for seed in range(4)]
    jobs = [fleet.wait(job_id, "succeeded") for job_id in job_ids]
    assert {job["instance"] for job in jobs} == {"gpu1@here"}, "the other GPU was idle all the time"
    left = fleet.wait(fleet.submit(work(0.2, seed=9), requires={"pool": "left"}), "succeeded")
    assert left["instance"] == "gpu0@here"


def test_without_its_only_gpu_a_job_waits_until_it_is_late(fleet: Fleet, ledger: Ledger, receiver: Receiver) -> None:
    fleet.kill("gpu1")
    url = f"{receiver.url}/hook"
    hook = {"url": url, "events": ["job.expired"]}
    job_id = fleet.submit(work(0.2), requires={"pool": "right"}, start_within_s=LATE_S, webhook=hook)
    patient = fleet.submit(work(0.2), requires={"pool": "right"})
    # The other GPU works meanwhile, and leaves both alone.
    fleet.wait(fleet.submit(work(0.2, seed=10)), "succeeded")

    job = fleet.wait(job_id, "expired")

    assert job["attempt"] == 0
    assert (job["error"]["code"], job["error"]["message"]) == ("start_timeout", "No GPU began it within 3 s.")
    created, completed = (datetime.fromisoformat(job[name].rstrip("Z")) for name in ("created_at", "completed_at"))
    assert LATE_S <= (completed - created).total_seconds() < LATE_S + 15, "no tick of the reconciler came meanwhile"
    [told] = until(lambda: receiver.received, what="the webhook")
    assert (told.body["type"], told.body["data"]["id"]) == ("job.expired", job_id)
    assert fleet.job(patient)["status"] == "queued", "who set no time waits for its GPU"

    fleet.start("gpu1")
    assert fleet.wait(patient, "succeeded", timeout_s=60)["instance"] == "gpu1@here"
