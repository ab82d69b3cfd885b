"""Instances, workers and their pool processes die in mid-job: the job runs again and is made once more at most."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest
import requests

from core.ledger import Ledger
from core.settings import Settings
from tests.fleet import ALL, Fleet, work
from tests.waiting import PATIENCE, until

#: Shorter than the defaults, with the same proportions and the same rule: a job moves within its lease and two ticks.
LEASE_S, RENEW_S, RECONCILE_S = 6.0, 1.5, 1.5


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One fleet for all: each test leaves it whole again. Seeds differ, or ComfyUI's cache would do the work."""
    short = {"lease_s": str(LEASE_S), "lease_renew_s": str(RENEW_S), "reconcile_s": str(RECONCILE_S)}
    with Fleet(tmp_path_factory.mktemp("gpu-faults"), **short) as fleet:
        yield fleet.start(*ALL).ready()


def running_on(fleet: Fleet, job_id: str) -> str:
    """`gpu0` once that GPU has really begun the job."""
    fleet.wait(job_id, "running")

    def where() -> str | None:
        names = [instance["name"] for instance in fleet.instances() if instance["job_id"] == job_id]
        return names[0].partition("@")[0] if names else None

    found: str = until(where, what="the instance of the job")
    return found


def pool_process(fleet: Fleet, name: str) -> int:
    """The process of a GPU worker that runs its jobs."""
    pid = fleet.pool_pid(name)
    assert pid is not None
    return pid


def attempts(fleet: Fleet, job_id: str) -> int:
    """How many times the job was given to a GPU so far, from the ledger."""
    ledger = Ledger(Settings(data_dir=fleet.data_dir))
    try:
        return ledger.jobs.get(job_id).attempt
    finally:
        ledger.close()


def test_job_runs_again_when_comfyui_is_killed(fleet: Fleet) -> None:
    job_id = fleet.submit(work(3.0, seed=1))
    name = running_on(fleet, job_id)
    time.sleep(0.5)
    os.kill(fleet.instance_pid(name), signal.SIGKILL)
    job = fleet.wait(job_id, "succeeded", timeout_s=30)
    assert fleet.picture(job).startswith(b"\x89PNG")
    assert attempts(fleet, job_id) == 2
    # The instance comes back by itself.
    fleet.ready(gpus=2)


def test_job_moves_within_30_s_when_its_worker_is_killed_and_the_waiting_client_gets_it(fleet: Fleet) -> None:
    answers: list[requests.Response] = []
    body = {"input": {"request_id": "waiting", "workflow_json": work(2.0, seed=2)}}

    def generate() -> None:
        answers.append(requests.post(f"{fleet.base_url}/generate/sync", json=body, timeout=60))

    client = threading.Thread(target=generate)
    client.start()
    job_id = until(lambda: [job["id"] for job in _jobs(fleet) if job["status"] == "running"], what="the job")[0]
    name = running_on(fleet, job_id)
    other = "gpu1" if name == "gpu0" else "gpu0"
    fleet.kill(name)
    killed_s = time.monotonic()
    until(lambda: attempts(fleet, job_id) == 2, timeout_s=30, what="the second attempt")
    # Some more for what does not shrink with the settings: messages, and a busy machine.
    assert time.monotonic() - killed_s < LEASE_S + 2 * RECONCILE_S + 2.0 * PATIENCE
    assert running_on(fleet, job_id) == other
    defaults = Settings(data_dir=fleet.data_dir)
    assert defaults.lease_s + 2 * defaults.reconcile_s <= 30
    client.join(40)
    assert answers[0].status_code == 200, answers[0].text
    assert answers[0].json()["status"] == "completed"
    assert attempts(fleet, job_id) == 2
    fleet.start(name).ready(gpus=2)


def test_job_runs_again_at_once_when_the_pool_process_is_killed(fleet: Fleet) -> None:
    job_id = fleet.submit(work(2.0, seed=3))
    name = running_on(fleet, job_id)
    time.sleep(0.3)
    # Without beat nobody looks for leases that have lapsed: the worker itself takes its job back.
    fleet.signal("beat", signal.SIGSTOP)
    try:
        os.kill(pool_process(fleet, name), signal.SIGKILL)
        until(lambda: fleet.job(job_id)["status"] == "queued" or attempts(fleet, job_id) == 2, what="taking it back")
    finally:
        fleet.signal("beat", signal.SIGCONT)
    # Its turn may have gone to the worker that has just lost it, and was used up there.
    until(lambda: attempts(fleet, job_id) == 2, what="the second attempt")
    job = fleet.wait(job_id, "succeeded", timeout_s=15)
    assert fleet.picture(job).startswith(b"\x89PNG")
    assert attempts(fleet, job_id) == 2
    # The worker that lost its process works on, and its instance is not busy with what the dead process had posted.
    second = [fleet.submit(work(0.1, seed=number)) for number in range(10, 16)]
    for job_id in second:
        fleet.wait(job_id, "succeeded")


def test_a_frozen_worker_that_wakes_up_changes_nothing(fleet: Fleet) -> None:
    job_id = fleet.submit(work(2.5, steps=1, seed=4))
    name = running_on(fleet, job_id)
    # The worker and its pool process freeze, its instance goes on: it finishes the first attempt unseen.
    frozen = [fleet.processes[name].pid, pool_process(fleet, name)]
    freeze_between_writes(fleet, frozen)
    try:
        job = fleet.wait(job_id, "succeeded", timeout_s=20)
        before = events(fleet, job_id)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    fleet.ready(gpus=2)
    time.sleep(2.0)
    assert events(fleet, job_id) == before
    assert fleet.job(job_id)["outputs"] == job["outputs"]


def freeze_between_writes(fleet: Fleet, pids: list[int]) -> None:
    """Stop processes, but not with SQLite's write lock in hand: then nobody could write until they wake."""
    while True:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        connection = sqlite3.connect(fleet.data_dir / "ledger.db", timeout=1.0, isolation_level=None)
        with contextlib.closing(connection), contextlib.suppress(sqlite3.OperationalError):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            return
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)


def events(fleet: Fleet, job_id: str) -> str:
    """The whole event stream of an ended job."""
    return requests.get(f"{fleet.base_url}/api/v2/jobs/{job_id}/events", timeout=10).text


def _jobs(fleet: Fleet) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = requests.get(f"{fleet.base_url}/api/v2/jobs", timeout=10).json()["jobs"]
    return listed
