"""Instances that somebody else runs: used, given up while they are stuck, and never ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import requests

from core.ledger import Ledger
from core.ledger.instances import HEALTHY
from tests.fleet import Fleet, work
from tests.integration.api.comfy_v2.test_assets import png
from tests.simulator_process import SimulatorProcess, simulator
from tests.waiting import until


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SimulatorProcess]]:
    with (
        simulator(tmp_path_factory.mktemp("first")) as first,
        simulator(tmp_path_factory.mktemp("second")) as second,
    ):
        yield [first, second]


@pytest.fixture(scope="module")
def fleet(theirs: list[SimulatorProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"comfyui_urls": ",".join(found.base_url for found in theirs), "lease_renew_s": "1", "reconcile_s": "1"}
    settings |= {"stuck_s": "2", "interrupt_grace_s": "1", "drain_grace_s": "1", "host": "here"}
    # A prompt that is in the way for long is one failure.
    settings |= {"quarantine_after": "3"}
    with Fleet(tmp_path_factory.mktemp("attached"), **settings) as fleet:
        yield fleet.start("broker", "api", "gpu0", "gpu1", "io", "beat").ready(gpus=2)


def test_jobs_run_there_and_their_files_are_fetched(fleet: Fleet) -> None:
    jobs = [fleet.wait(fleet.submit(work(0.2, seed=seed)), "succeeded") for seed in range(4)]

    assert len({fleet.picture(job) for job in jobs}) == 4


def test_input_files_are_uploaded_there(fleet: Fleet) -> None:
    upload = requests.post(f"{fleet.base_url}/upload/image", files={"file": ("room.png", png(10))}, timeout=5)
    graph = work(0.0)
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": upload.json()["path"]}}
    job = fleet.wait(fleet.submit(graph), "succeeded")
    assert fleet.picture(job).startswith(b"\x89PNG")


def test_a_worker_that_stops_leaves_the_instance_but_not_its_prompt(
    fleet: Fleet, ledger: Ledger, theirs: list[SimulatorProcess]
) -> None:
    job_id = fleet.submit(work(20.0, steps=200, seed=10))
    name = until(lambda: ledger.jobs.get(job_id).status == "running" and ledger.jobs.get(job_id).instance, what="a GPU")
    gpu = name.partition("@")[0]

    fleet.signal(gpu, signal.SIGTERM)

    assert fleet.processes.pop(gpu).wait(20) == 0
    their = theirs[int(gpu[-1])]
    assert their.popen.poll() is None
    assert requests.get(f"{their.base_url}/queue", timeout=5).json() == {"queue_running": [], "queue_pending": []}
    until(lambda: ledger.jobs.get(job_id).attempt == 2, what="the second attempt")
    fleet.cancel(job_id)
    fleet.wait(job_id, "canceled")
    fleet.start(gpu).ready(gpus=2)


def test_a_history_that_somebody_clears_costs_no_attempt(
    fleet: Fleet, ledger: Ledger, theirs: list[SimulatorProcess]
) -> None:
    for their in theirs:
        their.fault(history_cleared={})
    job = fleet.wait(fleet.submit(work(0.2, seed=15)), "succeeded")

    assert fleet.picture(job).startswith(b"\x89PNG")
    assert ledger.jobs.get(job["id"]).attempt == 1
    for their in theirs:
        requests.delete(f"{their.base_url}/simulator/faults", timeout=5)


def test_an_interrupt_by_somebody_else_is_tried_again_once(
    fleet: Fleet, ledger: Ledger, theirs: list[SimulatorProcess]
) -> None:
    def interrupt(job_id: str, attempt: int) -> None:
        until(lambda: ledger.jobs.get(job_id).attempt == attempt, what=f"attempt {attempt}")
        name = until(lambda: ledger.jobs.get(job_id).instance, what="a GPU")
        their = theirs[int(name[3])]
        until(lambda: their.get("/queue")["queue_running"], what="its run")
        requests.post(f"{their.base_url}/interrupt", timeout=5)

    once, twice = fleet.submit(work(2.0, steps=20, seed=16)), fleet.submit(work(30.0, steps=300, seed=17))
    interrupt(once, 1)
    interrupt(twice, 1)
    assert fleet.picture(fleet.wait(once, "succeeded"))
    interrupt(twice, 2)
    fleet.wait(twice, "failed")

    error = ledger.jobs.get(twice).error
    assert error is not None
    assert error.code == "interrupted"
    assert "somebody interrupted the prompt in ComfyUI" in error.message
    assert (error.node_id, error.class_type) == ("2", "SimulatedWork")
    codes = [event.data.get("code") for event in ledger.jobs.events(twice) if event.data.get("code")]
    assert codes == ["interrupted"]


def test_one_that_is_stuck_is_left_alone_until_its_prompt_is_gone(
    fleet: Fleet, ledger: Ledger, theirs: list[SimulatorProcess]
) -> None:
    for their in theirs:
        requests.post(f"{their.base_url}/simulator/faults", json={"hang": {"seconds": 7.0}}, timeout=5)
    job_id = fleet.submit(work(0.2, seed=20))
    name = until(lambda: ledger.jobs.get(job_id).instance, what="a GPU")
    other = theirs[1 - int(name[3])]
    requests.delete(f"{other.base_url}/simulator/faults", timeout=5)

    fleet.wait(job_id, "succeeded", timeout_s=20)

    assert ledger.jobs.get(job_id).instance != name
    record = until(
        lambda: (found := ledger.instances.get(name)) and "still runs a prompt" in (found.reason or "") and found,
        timeout_s=20,
        what="the reason",
    )
    assert record.state != HEALTHY
    # The node returns in the end, and the instance is of use again.
    until(lambda: len(fleet.instances(HEALTHY)) == 2, timeout_s=40, what="its return")


def test_one_cancel_that_is_not_heard_costs_the_time_until_the_prompt_is_gone(
    fleet: Fleet, ledger: Ledger, theirs: list[SimulatorProcess]
) -> None:
    for their in theirs:
        requests.post(f"{their.base_url}/simulator/faults", json={"hang": {"seconds": 8.0}}, timeout=5)
    job_id = fleet.submit(work(0.2, seed=30))
    name = until(lambda: ledger.jobs.get(job_id).instance, what="a GPU")
    their = theirs[int(name[3])]
    requests.delete(f"{theirs[1 - int(name[3])].base_url}/simulator/faults", timeout=5)
    until(lambda: requests.get(f"{their.base_url}/queue", timeout=5).json()["queue_running"], what="its run")
    before = ledger.instances.get(name)
    assert before is not None

    fleet.cancel(job_id)

    fleet.wait(job_id, "canceled", timeout_s=20)
    until(lambda: len(fleet.instances(HEALTHY)) == 1, what="its absence")
    until(lambda: not requests.get(f"{their.base_url}/queue", timeout=5).json()["queue_running"], what="the node's end")
    until(lambda: len(fleet.instances(HEALTHY)) == 2, timeout_s=10, what="its return")
    after = ledger.instances.get(name)
    assert after is not None
    assert after.restarts == before.restarts + 1
