"""Operators and service managers take a GPU out of use: its job finishes or goes on elsewhere, and nothing is lost."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from core.ledger import Ledger
from core.ledger.database.tables import jobs
from core.records.job import QUEUED
from tests.fleet import ALL, Fleet, work
from tests.waiting import PATIENCE, until

GRACE_S = 1.5


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    short = {"drain_grace_s": str(GRACE_S), "lease_renew_s": "1", "host": "here"}
    with Fleet(tmp_path_factory.mktemp("draining"), **short) as fleet:
        yield fleet.start(*ALL).ready()


def told(fleet: Fleet, *arguments: str) -> str:
    done = fleet.command(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def state_of(ledger: Ledger, name: str) -> str:
    """What the ledger says of `gpu0`."""
    return {record.name: record.state for record in ledger.instances.all()}[f"{name}@here"]


def runs_on(ledger: Ledger, job_id: str) -> str:
    """`gpu0` once that GPU has the job, and ComfyUI has begun it."""
    name = gpu_of(ledger, job_id)
    time.sleep(0.3)
    return name


def gpu_of(ledger: Ledger, job_id: str) -> str:
    """`gpu0` once that GPU has claimed the job."""

    def where() -> str | None:
        job = ledger.jobs.get(job_id)
        return job.instance if job.status == "running" else None

    name: str = until(where, what=f"the instance of {job_id}")
    return name.partition("@")[0]


def check_stopped(fleet: Fleet, name: str, instance_pid: int) -> None:
    """The worker ended by itself, without an error, and its instance with it."""
    assert fleet.processes.pop(name).wait(20) == 0
    assert not Path(f"/proc/{instance_pid}").exists()
    assert [found["state"] for found in fleet.instances() if found["name"].startswith(name)] in ([], ["stopped"])


def test_gpus_lists_what_each_does(fleet: Fleet, ledger: Ledger) -> None:
    job_id = fleet.submit(work(60.0, steps=600, seed=1))
    name = runs_on(ledger, job_id)

    lines = told(fleet, "gpus").splitlines()

    assert [line.split()[0] for line in lines] == ["gpu0@here", "gpu1@here"]
    assert {record["name"]: record["job_id"] for record in json.loads(told(fleet, "gpus", "--json"))} == {
        line.split()[0]: job_id if line.startswith(name) else None for line in lines
    }
    busy = next(line for line in lines if line.startswith(name))
    assert "healthy" in busy
    assert "SIMULATED" in busy
    assert job_id in busy
    fleet.cancel(job_id)
    fleet.wait(job_id, "canceled")


def test_a_drained_gpu_finishes_its_job_and_takes_no_more_until_resumed(fleet: Fleet, ledger: Ledger) -> None:
    # Longer than the command below takes on a busy machine.
    job_id = fleet.submit(work(GRACE_S + 4.0 * PATIENCE, seed=2))
    name = runs_on(ledger, job_id)
    other = "gpu1" if name == "gpu0" else "gpu0"

    assert job_id in told(fleet, "drain", name)

    until(lambda: state_of(ledger, name) == "draining", what="the drain")
    # An operator's drain has no time limit: the job is finished there.
    assert ledger.jobs.get(fleet.wait(job_id, "succeeded")["id"]).attempt == 1
    until(lambda: state_of(ledger, name) == "drained", what="the end of the drain")
    more = [fleet.submit(work(0.2, seed=seed)) for seed in range(10, 14)]
    for job_id in more:
        fleet.wait(job_id, "succeeded")
        assert ledger.jobs.get(job_id).instance == f"{other}@here"

    # It is still drained when its worker was started anew.
    assert fleet.stop(name) == 0
    fleet.start(name)
    until(lambda: state_of(ledger, name) == "drained", what="the drain of the new worker")
    told(fleet, "resume", f"{name}@here")
    until(lambda: state_of(ledger, name) == "healthy", what="the end of the drain")


def test_a_restart_waits_for_the_job_and_then_replaces_the_process(fleet: Fleet, ledger: Ledger) -> None:
    job_id = fleet.submit(work(1.0, seed=20))
    name = runs_on(ledger, job_id)
    before = fleet.instance_pid(name)

    told(fleet, "restart", name, "--wait")

    assert state_of(ledger, name) == "healthy"
    assert fleet.living_instance_pid(name) not in (None, before)
    assert ledger.jobs.get(fleet.wait(job_id, "succeeded")["id"]).attempt == 1


def test_a_job_longer_than_the_grace_time_goes_on_elsewhere_at_once(fleet: Fleet, ledger: Ledger) -> None:
    job_id = fleet.submit(work(GRACE_S + 3.0, seed=30))
    name = runs_on(ledger, job_id)
    instance_pid = fleet.instance_pid(name)

    fleet.signal(name, signal.SIGTERM)
    told_s = time.monotonic()
    until(lambda: ledger.jobs.get(job_id).attempt == 2, what="the second attempt")

    assert time.monotonic() - told_s > GRACE_S - 0.5, "after the grace time; that it is no loss shows below"
    assert fleet.processes.pop(name).wait(20) == 0
    assert not Path(f"/proc/{instance_pid}").exists()
    fleet.wait(job_id, "succeeded")
    assert ledger.jobs.get(job_id).attempt == 2
    [given_back] = [event for event in ledger.jobs.events(job_id) if event.data.get("reason")]
    assert given_back.data["status"] == QUEUED
    assert "code" not in given_back.data, "an orderly stop is no loss"
    fleet.start(name).ready(gpus=2)


@pytest.mark.parametrize("group", [False, True], ids=["to the worker", "to its whole group"])
def test_sigterm_lets_the_running_job_finish(fleet: Fleet, ledger: Ledger, group: bool) -> None:
    job_id = fleet.submit(work(1.0, seed=40 + group))
    name = runs_on(ledger, job_id)
    instance_pid = fleet.instance_pid(name)

    fleet.signal(name, signal.SIGTERM, group=group)

    assert fleet.picture(fleet.wait(job_id, "succeeded")).startswith(b"\x89PNG")
    assert ledger.jobs.get(job_id).attempt == 1
    check_stopped(fleet, name, instance_pid)
    fleet.start(name).ready(gpus=2)


def test_the_job_on_deck_is_given_back_uncounted_and_runs_elsewhere_at_once(fleet: Fleet, ledger: Ledger) -> None:
    # Both workers learn how long this shape takes, so that each puts one more job on deck as soon as it may.
    for job_id in [fleet.submit(work(GRACE_S, seed=seed)) for seed in (10, 11)]:
        fleet.wait(job_id, "succeeded", timeout_s=20)
    first = [fleet.submit(work(GRACE_S, seed=seed)) for seed in (12, 13)]
    gpus = {gpu_of(ledger, job_id): job_id for job_id in first}
    assert len(gpus) == 2
    on_deck = fleet.submit(work(GRACE_S, seed=14))
    name = gpu_of(ledger, on_deck)
    assert {ledger.jobs.get(job_id).status for job_id in first} == {"running"}
    instance_pid = fleet.instance_pid(name)
    fleet.signal(name, signal.SIGTERM)
    fleet.wait(gpus[name], "succeeded", timeout_s=10)
    ended_s = time.monotonic()
    until(lambda: ledger.jobs.get(on_deck).attempt == 2, timeout_s=10, what="the second attempt")
    moved_s = time.monotonic() - ended_s
    assert gpu_of(ledger, on_deck) != name
    job = fleet.wait(on_deck, "succeeded", timeout_s=20)
    assert fleet.picture(job).startswith(b"\x89PNG")
    assert ledger.jobs.get(gpus[name]).attempt == 1
    [given_back] = [event for event in ledger.jobs.events(on_deck) if event.data.get("reason")]
    assert given_back.data["status"] == QUEUED
    assert lost_attempts(ledger, on_deck) == 0
    assert moved_s < min(1.5 * PATIENCE, 4.5), "not left to the reconciler, which comes every five seconds"
    check_stopped(fleet, name, instance_pid)
    fleet.start(name).ready(gpus=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["drain", "gpu7"], "There is no gpu7 in this fleet. It has: gpu0@here, gpu1@here."),
        (["restart", "gpu0@there"], "There is no gpu0@there"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(fleet: Fleet, arguments: list[str], words: str) -> None:
    done = fleet.command(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_worker_that_does_not_answer_is_said_so(fleet: Fleet) -> None:
    fleet.kill("gpu1")
    done = fleet.command("drain", "gpu1")
    assert done.returncode == 4
    assert "does not answer" in done.stderr
    fleet.start("gpu1").ready(gpus=2)


def lost_attempts(ledger: Ledger, job_id: str) -> int:
    """How many attempts count against the job."""
    with ledger.database.read() as connection:
        return int(connection.execute(select(jobs.c.lost_attempts).where(jobs.c.id == job_id)).scalar_one())
