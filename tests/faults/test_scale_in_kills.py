"""A host is given back, and whatever has a part in it is killed in the middle: nothing is lost, nothing returns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from core.ledger import Ledger
from core.records.instance import InstanceRecord
from tests.fleet import Fleet, work
from tests.waiting import until

LEAVES, STAYS = "one", "two"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two hosts with a GPU each, of which one is wanted; the first has been idle for longer."""
    settings = {"lease_renew_s": "0.5", "reconcile_s": "1", "simulator_args": "--simulate-test-nodes"}
    settings |= {"autoscale_pools": "-=1-2", "autoscale_idle_s": "10"}
    with Fleet(tmp_path_factory.mktemp("leaving"), **settings) as fleet:
        fleet.reconfigure(host=STAYS)
        fleet.start("broker", "api", "io", "beat")
        start(fleet, "gpu0", LEAVES).ready(gpus=1)
        yield start(fleet, "gpu1", STAYS).ready(gpus=2)


def start(fleet: Fleet, name: str, host: str) -> Fleet:
    fleet.reconfigure(host=host)
    fleet.start(name)
    fleet.reconfigure(host=STAYS)
    return fleet


def scale_in(fleet: Fleet) -> dict[str, dict[str, Any]]:
    answer = requests.post(f"{fleet.base_url}/api/v2/autoscale/-/scale-in", timeout=30)
    assert answer.status_code == 202, answer.text
    return {host["host"]: host for host in answer.json()["hosts"]}


def given_back(fleet: Fleet) -> str:
    found: dict[str, dict[str, Any]] = until(lambda: scale_in(fleet), timeout_s=60, what="a host that leaves")
    [host] = found
    return host


def leaving_gpu(ledger: Ledger) -> InstanceRecord:
    [found] = [record for record in ledger.instances.all() if record.host == LEAVES]
    return found


def is_at(ledger: Ledger, *states: str, after: str = "") -> bool:
    """Whether the GPU of the host that leaves is in one of these states. Parameters: after - not as of this worker."""
    found = leaving_gpu(ledger)
    return found.state in states and found.worker != after


def instances_of(fleet: Fleet, job_ids: list[str]) -> set[str]:
    jobs = [fleet.wait(job_id, "succeeded", timeout_s=60) for job_id in job_ids]
    assert {job["attempt"] for job in jobs} == {1}
    return {job["instance"] for job in jobs}


def test_whoever_is_killed_in_the_middle_it_goes_on(fleet: Fleet, ledger: Ledger) -> None:
    assert given_back(fleet) == LEAVES
    # The worker may not have drained yet, and the API may be telling it.
    fleet.kill("gpu0")
    fleet.kill("api")
    fleet.start("api")
    start(fleet, "gpu0", LEAVES)
    job_ids = [fleet_submit(fleet, seed) for seed in range(4)]

    assert instances_of(fleet, job_ids) == {f"gpu1@{STAYS}"}, "a worker that comes back there takes nothing"
    found = until(lambda: (each := scale_in(fleet)) and each[LEAVES]["may_go"] and each, timeout_s=60, what="may go")
    assert list(found) == [LEAVES], "and no other one is given back in its place"
    # All of it at once, as when a machine is switched off.
    fleet.kill("gpu0")
    assert instances_of(fleet, [fleet_submit(fleet, 10)]) == {f"gpu1@{STAYS}"}
    assert scale_in(fleet)[LEAVES]["may_go"]


def test_a_host_that_ended_well_and_comes_again_takes_jobs(fleet: Fleet, ledger: Ledger) -> None:
    before = leaving_gpu(ledger).worker
    start(fleet, "gpu0", LEAVES)
    until(lambda: is_at(ledger, "draining", "drained", after=before), timeout_s=60, what="a drained GPU")
    assert fleet.stop("gpu0") == 0
    start(fleet, "gpu0", LEAVES)
    until(lambda: is_at(ledger, "healthy"), timeout_s=60, what="a healthy GPU")
    assert ledger.scaling.leaving() == []


def test_an_operator_keeps_a_host(fleet: Fleet, ledger: Ledger) -> None:
    # The one that was started last is not the one that was idle for longest.
    host = given_back(fleet)
    gpus = [record.name for record in ledger.instances.all() if record.host == host]
    until(lambda: fleet.instances("draining") or fleet.instances("drained"), timeout_s=60, what="a drained GPU")
    done = fleet.command("resume", "--host", host, "--wait", "--timeout", "50")
    assert done.returncode == 0, done.stderr
    assert ledger.scaling.leaving() == []

    def healthy() -> list[str]:
        return [each["name"] for each in fleet.instances("healthy") if each["name"] in gpus]

    until(lambda: healthy() == gpus, what="healthy GPUs of that host")


def fleet_submit(fleet: Fleet, seed: int) -> str:
    """Submit as soon as the API answers."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            return fleet.submit(work(0.3, seed=seed))
        except requests.ConnectionError:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
