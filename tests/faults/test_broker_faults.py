"""The broker dies, freezes or forgets everything: jobs are accepted all the same, and every one of them ends."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import requests

from core.settings import Settings
from tests.fleet import ALL, Fleet, work
from tests.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One fleet for all: whatever becomes of the broker, the fleet is whole again at the end of each test."""
    with Fleet(tmp_path_factory.mktemp("broker-faults"), simulated_gpus="1", reconcile_s="1.5") as fleet:
        yield fleet.start(*(name for name in ALL if name != "gpu1")).ready(gpus=1)


def timed_submit(fleet: Fleet, seed: int) -> tuple[str, float]:
    begun_s = time.monotonic()
    job_id = fleet.submit(work(0.05, seed=seed))
    return job_id, time.monotonic() - begun_s


def broker_pid(fleet: Fleet) -> int:
    """The broker itself, a child of `comfyline broker`."""
    parent = fleet.processes["broker"].pid
    [child] = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(child)


def test_jobs_are_accepted_while_the_broker_is_dead_and_run_when_it_is_back(fleet: Fleet) -> None:
    fleet.kill("broker")
    submitted = [timed_submit(fleet, seed) for seed in range(30)]
    assert max(seconds for _, seconds in submitted) < 3.0 * PATIENCE
    assert {fleet.job(job_id)["status"] for job_id, _ in submitted} == {"queued"}
    fleet.start("broker")
    back_s = time.monotonic()
    for job_id, _ in submitted:
        fleet.wait(job_id, "succeeded", timeout_s=40)
    # All of them soon, not a few with each tick of the reconciler.
    assert time.monotonic() - back_s < 25.0 * PATIENCE


def test_jobs_are_accepted_while_the_broker_is_frozen_and_run_when_it_thaws(fleet: Fleet) -> None:
    pid = broker_pid(fleet)
    subprocess.run(["kill", "-STOP", str(pid)], check=True)
    try:
        submitted = [timed_submit(fleet, seed) for seed in range(100, 103)]
    finally:
        subprocess.run(["kill", "-CONT", str(pid)], check=True)
    assert max(seconds for _, seconds in submitted) < 3.0 * PATIENCE
    for job_id, _ in submitted:
        fleet.wait(job_id, "succeeded", timeout_s=40)


def test_every_job_ends_when_the_broker_forgets_everything(fleet: Fleet) -> None:
    job_ids = [fleet.submit(work(0.05, seed=seed)) for seed in range(200, 240)]
    until(lambda: fleet.job(job_ids[0])["status"] == "succeeded", what="the first job")
    fleet.signal("broker", signal.SIGTERM)
    fleet.processes.pop("broker").wait(10)
    for file in (fleet.data_dir / "broker").rglob("*"):
        if file.is_file():
            file.unlink()
    fleet.start("broker")
    for job_id in job_ids:
        fleet.wait(job_id, "succeeded", timeout_s=60)


def refusing(client: redis.Redis, is_on: bool) -> None:
    """Have it take no writes, as one does that lost its replicas, or whose memory or disk is full."""
    client.config_set("min-replicas-to-write", "3" if is_on else "0")


def replicating(client: redis.Redis, is_on: bool) -> None:
    """Make it another server's replica, as a failover does, or no longer."""
    client.replicaof(*(("127.0.0.1", "1") if is_on else ("NO", "ONE")))


def filled(client: redis.Redis, is_on: bool) -> None:
    """Let its memory be full, or have room again."""
    client.config_set("maxmemory", "1" if is_on else "0")


@pytest.mark.parametrize("switch", [refusing, replicating, filled])
def test_nothing_ends_while_the_broker_takes_no_writes(
    fleet: Fleet, switch: Callable[[redis.Redis, bool], None]
) -> None:
    job_id = fleet.submit(work(5.0, seed=30))
    fleet.wait(job_id, "running")
    with redis.Redis(unix_socket_path=str(Settings(data_dir=fleet.data_dir).embedded_broker_socket)) as client:
        switch(client, True)
        waiting = [timed_submit(fleet, seed) for seed in (31, 32)]
        time.sleep(4.0)
        answer = requests.get(f"{fleet.base_url}/ready", timeout=5)
        assert (answer.status_code, answer.json()["broker"]["ok"]) == (503, False)
        switch(client, False)

    assert fleet.wait(job_id, "succeeded", timeout_s=60)["attempt"] == 1
    for other, seconds in waiting:
        assert seconds < 3.0 * PATIENCE
        fleet.wait(other, "succeeded", timeout_s=60)
    fleet.ready(gpus=1)
    assert [name for name, process in fleet.processes.items() if process.poll() is not None] == []
    assert "Traceback" not in fleet.log("beat")
