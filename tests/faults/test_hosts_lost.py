"""Hosts that die with all that runs on them, at each step of a job, and hosts that are cut off for a while."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from core.clock import now_ms
from core.records.job import DELIVERING
from tests.fleet import work
from tests.host_fleet import HostFleet, Hosts, hosts
from tests.integration.whole.test_hosts import enter, loading, picture, red_of, showing
from tests.ledger_moves import set_columns
from tests.s3_server import Hold
from tests.waiting import until

# A busy machine takes its time with eight hosts.
pytestmark = pytest.mark.timeout(300)

#: Longer than a host may be silent, and shorter than jobs are kept.
LONG_MS = 3_600_000
#: Every case, and a whole minute, are for who wants to wait for them.
IS_LONG = bool(os.environ.get("COMFYLINE_TEST_LONG"))
BUCKET_AWAY_S = 60.0 if IS_LONG else 12.0
#: Of requests to the bucket, for whatever area.
GET, PUT = b"GET /fleet/files/", b"PUT /fleet/files/"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(tmp_path_factory.mktemp("hosts")) as fleet:
        yield fleet


@pytest.fixture
def fleet(running: Hosts) -> Hosts:
    """The fleet with all of its processes, also after a test that ended some."""
    for host in (running.one, running.two):
        host.start(*(name for name in ("gpu0", "io") if name not in host.processes))
    running.api.ready(gpus=2, timeout_s=60)
    return running


@contextmanager
def held(fleet: Hosts, beginning: bytes) -> Iterator[Hold]:
    """Keep a request from the bucket for the time of a block."""
    hold = fleet.gate.hold(beginning)
    try:
        yield hold
    finally:
        hold.let_go()


def upload(fleet: Hosts, red: int) -> str:
    files, form = {"file": ("a.png", picture(red))}, {"file_path": "a.png"}
    answer = requests.post(f"{fleet.api.base_url}/api/v2/assets", files=files, data=form, timeout=20)
    return str(answer.json()["id"])


def runs_again(fleet: Hosts, job_id: str, dead: HostFleet) -> dict[str, Any]:
    """The job, once another host has run it, and has said why."""
    job = fleet.api.wait(job_id, "succeeded", timeout_s=90)
    assert job["attempt"] == 2
    assert [(loss["code"], loss["attempt"]) for loss in job["losses"]] == [("instance_lost", 1)]
    assert job["losses"][0]["instance"] != job["instance"]
    assert fleet.host_of(job_id) is not dead
    return job


def test_a_host_that_dies_while_it_fetches_inputs(fleet: Hosts) -> None:
    asset = upload(fleet, 41)
    with held(fleet, GET + b"inputs/") as hold:
        job_id = fleet.api.submit(showing(asset))
        assert hold.has_come.wait(30), "its GPU wants the input"
        dead = fleet.host_of(job_id)
        dead.die()

    job = runs_again(fleet, job_id, dead)
    assert red_of(fleet.api.picture(job)) == 41


def test_a_host_that_dies_while_it_runs(fleet: Hosts) -> None:
    job_id = fleet.api.submit(work(8.0, seed=1))
    until(lambda: fleet.api.job(job_id)["progress"], what="some progress")
    dead = fleet.host_of(job_id)
    dead.die()

    runs_again(fleet, job_id, dead)


@pytest.mark.parametrize("stored", [*([0] if IS_LONG else []), 1])
def test_a_host_that_dies_with_files_that_are_not_stored(fleet: Hosts, stored: int) -> None:
    graph = work(0.1, seed=10 + stored)
    graph["1"]["inputs"]["batch_size"] = 2
    fleet.gate.shut()
    job_id = fleet.api.submit(graph)
    until(lambda: fleet.ledger.jobs.get(job_id).status == DELIVERING, what="its files", timeout_s=30)
    with held(fleet, PUT + f"outputs/{job_id}/".encode()) as hold:
        hold.skip = stored
        fleet.gate.open()
        set_columns(fleet.ledger, job_id, updated_at_ms=1)
        assert hold.has_come.wait(60), "a file on its way"
        dead = fleet.host_of(job_id)
        dead.die()
    # As if its files had been awaited for long enough already.
    set_columns(fleet.ledger, job_id, generated_at_ms=now_ms() - LONG_MS)

    job = runs_again(fleet, job_id, dead)
    assert len(job["outputs"]) == 2
    for output in job["outputs"]:
        assert requests.get(output["url"], timeout=10).content.startswith(b"\x89PNG")


def test_a_host_that_dies_while_it_fetches_a_model(fleet: Hosts) -> None:
    name = enter(fleet, "slow.safetensors", 70, bytes_s=100_000)
    job_id = fleet.api.submit(loading(name))
    until(lambda: fleet.web.sent.get(f"/{name}", 0) > 100_000, what="a part of it")
    # Neither has claimed it; whichever fetches dies.
    fetching = [host for host in (fleet.one, fleet.two) if list(models(fleet, host).glob(f".{name}.comfyline.part"))]
    assert len(fetching) == 1, "all files of a job come to one host"
    fetching[0].die()
    fleet.web.files[f"/{name}"].bytes_s = None

    job = fleet.api.wait(job_id, "succeeded", timeout_s=90)
    assert (job["attempt"], job["losses"]) == (1, [])


def models(fleet: Hosts, host: HostFleet) -> Any:
    return fleet.api.root.parent / f"models-{host.root.name}" / "checkpoints"


@pytest.mark.skipif(not IS_LONG, reason="long: COMFYLINE_TEST_LONG=1 has it run")
def test_hosts_that_die_together_come_back_and_work(fleet: Hosts) -> None:
    fleet.one.die()
    fleet.two.die()
    job_id = fleet.api.submit(work(0.1, seed=2))
    for host in (fleet.one, fleet.two):
        host.start("gpu0", "io")

    assert fleet.api.wait(job_id, "succeeded", timeout_s=60)["attempt"] == 1


def test_a_bucket_that_is_cut_off_for_a_while_loses_nothing(fleet: Hosts) -> None:
    bucket = fleet.namespace("bucket")
    job_ids = [fleet.api.submit(work(2.0, seed=seed)) for seed in (20, 21)]
    for job_id in job_ids:
        fleet.api.wait(job_id, "running")
    with cut(bucket.cut, bucket.mend, BUCKET_AWAY_S):
        for job_id in job_ids:
            until(lambda job_id=job_id: fleet.ledger.jobs.get(job_id).status == DELIVERING, what="its files")  # type: ignore[misc]
    later = fleet.api.submit(work(0.1, seed=22))

    for job_id in job_ids:
        set_columns(fleet.ledger, job_id, updated_at_ms=1)
    for job_id in (*job_ids, later):
        job = fleet.api.wait(job_id, "succeeded", timeout_s=90)
        assert (job["attempt"], job["losses"]) == (1, [])
        assert fleet.api.picture(job).startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "seed"), [("database", 30), ("broker", 40)])
def test_a_server_that_is_cut_off_for_some_seconds_costs_no_attempt(fleet: Hosts, name: str, seed: int) -> None:
    server = fleet.namespace(name)
    # Of graphs that no GPU has run: those would end at once.
    running = [fleet.api.submit(work(4.0, seed=seed + number)) for number in (1, 2)]
    for job_id in running:
        fleet.api.wait(job_id, "running")
    waiting = fleet.api.submit(work(0.1, seed=seed + 3))

    with cut(server.cut, server.mend, 3.0):
        pass

    for job_id in (*running, waiting):
        job = fleet.api.wait(job_id, "succeeded", timeout_s=90)
        assert (job["attempt"], job["losses"]) == (1, [])


def test_a_gpu_host_that_is_cut_off_loses_its_job_to_the_other_and_comes_back(fleet: Hosts) -> None:
    job_id = fleet.api.submit(work(3.0, seed=50))
    fleet.api.wait(job_id, "running")
    lost = fleet.host_of(job_id)
    assert lost.namespace is not None or fleet.namespace("one")
    host = fleet.namespace(lost.root.name)
    host.cut()
    try:
        runs_again(fleet, job_id, lost)
    finally:
        host.mend()
    fleet.api.ready(gpus=2, timeout_s=90)


@contextmanager
def cut(pull: Callable[[], None], mend: Callable[[], None], seconds: float) -> Iterator[None]:
    """Cut something off for so long, at least as long as the block takes."""
    pull()
    over = threading.Event()
    try:
        ends_at_s = time.monotonic() + seconds
        yield
        over.wait(max(0.0, ends_at_s - time.monotonic()))
    finally:
        mend()
