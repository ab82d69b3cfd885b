"""Cancelling works in every state, is idempotent, and leaves the GPU free for the next job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.fleet import ALL, Fleet, work
from tests.waiting import PATIENCE, until

RENEW_S = 10.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(Path(tmp_path_factory.mktemp("cancel")), simulated_gpus="1", lease_renew_s=str(RENEW_S)) as fleet:
        yield fleet.start(*(name for name in ALL if name != "gpu1")).ready(gpus=1)


def test_a_queued_job_never_runs(fleet: Fleet) -> None:
    blocker = fleet.submit(work(3.0, seed=1))
    fleet.wait(blocker, "running")
    waiting = fleet.submit(work(0.1, seed=2))
    assert fleet.cancel(waiting)["status"] == "canceled"
    assert fleet.cancel(blocker)["status"] == "canceling"
    fleet.wait(blocker, "canceled")
    time.sleep(0.5)
    assert fleet.job(waiting)["started_at"] is None


def test_a_running_job_is_interrupted_at_once(fleet: Fleet) -> None:
    job_id = fleet.submit(work(30.0, steps=300, seed=3))
    fleet.wait(job_id, "running")
    begun_s = time.monotonic()
    assert fleet.cancel(job_id)["status"] == "canceling"
    job = fleet.wait(job_id, "canceled", timeout_s=10)
    # Pushed to the worker: not left to the next renewal of the lease.
    assert time.monotonic() - begun_s < min(3.0 * PATIENCE, RENEW_S - 1)
    assert job["outputs"] == []
    assert job["error"] is None


def test_cancelling_twice_and_after_the_end_changes_nothing(fleet: Fleet) -> None:
    job_id = fleet.submit(work(0.05, seed=4))
    done = fleet.wait(job_id, "succeeded")
    assert fleet.cancel(job_id) == fleet.cancel(job_id)
    assert fleet.job(job_id)["status"] == "succeeded"
    assert fleet.job(job_id)["outputs"] == done["outputs"]


def test_the_job_on_deck_is_cancelled_without_harm_to_the_running_one(fleet: Fleet) -> None:
    # Once the duration of the shape is known, the second job is queued in ComfyUI behind the first.
    fleet.wait(fleet.submit(work(1.5, seed=5)), "succeeded")
    first = fleet.submit(work(1.5, seed=6))
    second = fleet.submit(work(1.5, seed=7))
    fleet.wait(second, "running")
    assert fleet.job(first)["status"] == "running"
    fleet.cancel(second)
    assert fleet.wait(second, "canceled", timeout_s=10)["outputs"] == []
    fleet.wait(first, "succeeded")
    # The GPU goes on with the next.
    fleet.wait(fleet.submit(work(0.05, seed=8)), "succeeded")


def test_a_job_being_delivered_is_dropped(fleet: Fleet) -> None:
    fleet.stop("io")
    try:
        job_id = fleet.submit(work(0.05, seed=9), strip_metadata=True)
        folder = fleet.data_dir / "gpus" / "gpu0" / "output" / job_id
        until(lambda: list(folder.glob("*.png")), what="the picture on the GPU host")
        time.sleep(0.3)
        assert fleet.job(job_id)["status"] == "running"
        assert fleet.cancel(job_id)["status"] == "canceled"
    finally:
        fleet.start("io")
    until(lambda: "fleet.upload" in fleet.log("io"), what="the upload's turn")
    time.sleep(0.5)
    assert fleet.job(job_id)["status"] == "canceled"
    assert fleet.job(job_id)["outputs"] == []


def test_generate_contract_cancels_too(fleet: Fleet) -> None:
    body = {"input": {"request_id": "to-cancel", "workflow_json": work(30.0, steps=300, seed=10)}}
    assert requests.post(f"{fleet.base_url}/generate", json=body, timeout=10).status_code == 202
    assert requests.post(f"{fleet.base_url}/cancel/to-cancel", timeout=10).status_code == 200
    until(
        lambda: requests.get(f"{fleet.base_url}/result/to-cancel", timeout=10).json()["status"] == "cancelled",
        timeout_s=10,
        what="the cancelled status",
    )
