"""A GPU worker is asked to stop: it finishes what runs, gives back what does not, and leaves nothing behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from core.job import QUEUED
from core.ledger import Ledger
from core.ledger.tables import jobs
from core.settings import Settings
from tests.fleet import ALL, Fleet, until, work

SECONDS = 2.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("stopping")) as fleet:
        yield fleet.start(*ALL).ready()


@pytest.fixture(scope="module")
def ledger(fleet: Fleet) -> Iterator[Ledger]:
    ledger = Ledger(Settings(data_dir=fleet.data_dir))
    yield ledger
    ledger.close()


def gpu_of(ledger: Ledger, job_id: str) -> str:
    """`gpu0` once that GPU has claimed the job."""

    def where() -> str | None:
        job = ledger.jobs.get(job_id)
        return job.instance if job.status == "running" else None

    name: str = until(where, what=f"the instance of {job_id}")
    return name.partition("@")[0]


def ask_to_stop(fleet: Fleet, name: str) -> int:
    """SIGTERM to the main process of a GPU worker alone; returns the process id of its instance."""
    instance_pid = fleet.instance_pid(name)
    fleet.signal(name, signal.SIGTERM)
    return instance_pid


def check_stopped(fleet: Fleet, name: str, instance_pid: int) -> None:
    """The worker ended by itself, without an error, and its instance with it."""
    assert fleet.processes.pop(name).wait(20) == 0
    assert not Path(f"/proc/{instance_pid}").exists()
    assert [found["state"] for found in fleet.instances() if found["name"].startswith(name)] in ([], ["stopped"])


def test_a_running_job_is_finished_first(fleet: Fleet, ledger: Ledger) -> None:
    job_id = fleet.submit(work(SECONDS, seed=1))
    name = gpu_of(ledger, job_id)
    time.sleep(0.3)
    instance_pid = ask_to_stop(fleet, name)
    job = fleet.wait(job_id, "succeeded", timeout_s=10)
    assert fleet.picture(job).startswith(b"\x89PNG")
    assert ledger.jobs.get(job_id).attempt == 1
    check_stopped(fleet, name, instance_pid)
    fleet.start(name).ready(gpus=2)


def test_the_job_on_deck_is_given_back_uncounted_and_runs_elsewhere_at_once(fleet: Fleet, ledger: Ledger) -> None:
    # Both workers learn how long this shape takes, so that each puts one more job on deck as soon as it may.
    for job_id in [fleet.submit(work(SECONDS, seed=seed)) for seed in (10, 11)]:
        fleet.wait(job_id, "succeeded", timeout_s=20)
    first = [fleet.submit(work(SECONDS, seed=seed)) for seed in (12, 13)]
    gpus = {gpu_of(ledger, job_id): job_id for job_id in first}
    assert len(gpus) == 2
    on_deck = fleet.submit(work(SECONDS, seed=14))
    name = gpu_of(ledger, on_deck)
    assert {ledger.jobs.get(job_id).status for job_id in first} == {"running"}
    instance_pid = ask_to_stop(fleet, name)
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
    assert moved_s < 1.5, "not left to the reconciler"
    check_stopped(fleet, name, instance_pid)


def lost_attempts(ledger: Ledger, job_id: str) -> int:
    """How many attempts count against the job."""
    with ledger.database.read() as connection:
        return int(connection.execute(select(jobs.c.lost_attempts).where(jobs.c.id == job_id)).scalar_one())
