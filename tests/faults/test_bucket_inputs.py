"""Input files on their way from a bucket to GPU hosts: slow, away, spoilt, without room, and hosts that die."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from PIL import Image

from core.clock import now_ms
from core.ledger.instances import HEALTHY
from core.records.job import DELIVERING, QUEUED, RUNNING
from tests.bucket_fleet import Machines, machines
from tests.fleet import Fleet, work
from tests.ledger_moves import set_columns
from tests.services import Broker, PostgresServer
from tests.waiting import until

LONG_MS = 3_600_000
PARTNER_KEY = "comfyui-partner-0123456789"
_pictures = iter(range(1, 256))


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: Broker, postgres: PostgresServer
) -> Iterator[Machines]:
    # A release that shows the key of partner nodes in its history.
    settings: dict[str, Any] = {
        "host_lost_s": "30",
        "simulated_gpus": "2",
        "simulator_args": "--simulate-version 0.3.64",
    }
    with machines(tmp_path_factory.mktemp("inputs"), shared_redis, postgres.create(), **settings) as fleet:
        yield fleet


@pytest.fixture
def whole(fleet: Machines) -> Machines:
    """Two hosts with a GPU and an io worker each, and a bucket that answers."""
    fleet.gate.open()
    fleet.gate.delay_s = 0.0
    for host in (fleet.one, fleet.two):
        if "gpu1" in host.processes:
            host.stop("gpu1")
        for name in ("gpu0", "io"):
            if name not in host.processes:
                host.start(name)
    healthy(fleet, "gpu0@one", "gpu0@two")
    return fleet


@pytest.fixture
def single(whole: Machines) -> Machines:
    """Nobody but the GPU of the first host takes jobs."""
    whole.two.stop("gpu0")
    healthy(whole, "gpu0@one")
    return whole


def healthy(fleet: Machines, *names: str) -> None:
    """Wait until these GPUs, and no others, take jobs."""

    def found() -> bool:
        return {each.name for each in fleet.ledger.instances.all() if each.state == HEALTHY} == set(names)

    until(found, what=f"{names} alone", timeout_s=60)


def uploaded(fleet: Machines) -> tuple[str, int]:
    """A picture in storage: its id, and its only colour."""
    color, data = next(_pictures), io.BytesIO()
    Image.new("RGB", (32, 32), (color, 0, 0)).save(data, "PNG")
    files, form = {"file": ("a.png", data.getvalue())}, {"file_path": "a.png"}
    answer = requests.post(f"{fleet.api.base_url}/api/v2/assets", files=files, data=form, timeout=30)
    return str(answer.json()["id"]), color


def showing(name: str, seconds: float = 0.0) -> dict[str, Any]:
    """A graph that saves what it loads."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SimulatedWork", "inputs": {"image": ["1", 0], "seconds": seconds, "steps": 4}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "shown"}},
    }


def shows(fleet: Machines, job_id: str, color: int) -> None:
    job = fleet.api.wait(job_id, "succeeded", timeout_s=60)
    assert Image.open(io.BytesIO(fleet.api.picture(job))).getpixel((0, 0)) == (color, 0, 0)


def fetches(fleet: Machines) -> int:
    """How often an input file was asked for."""
    return sum(line.startswith("GET /fleet/files/inputs/") for line in fleet.gate.requests)


def fetching(fleet: Machines, before: int) -> None:
    """Wait until a GPU worker has asked for the file of a job; the API has no need to."""
    until(lambda: fetches(fleet) > before, what="the fetch", timeout_s=60)


def host_of(fleet: Machines, job_id: str) -> tuple[Fleet, Fleet]:
    """The host that has a job, and the other one."""
    is_one = fleet.ledger.jobs.get(job_id).instance == "gpu0@one"
    return (fleet.one, fleet.two) if is_one else (fleet.two, fleet.one)


@contextmanager
def slow(fleet: Machines, seconds: float) -> Iterator[None]:
    fleet.gate.delay_s = seconds
    yield
    fleet.gate.delay_s = 0.0


def submit(fleet: Machines, graph: dict[str, Any]) -> str:
    """Submit while the bucket is slow: the API may ask it whether it is there."""
    answer = requests.post(f"{fleet.api.base_url}/api/v2/jobs", json={"workflow": graph}, timeout=120)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def cached(host: Fleet) -> list[Any]:
    return list((host.data_dir / "input-cache").glob("??/*"))


def test_two_gpus_of_one_host_fetch_a_file_once(single: Machines) -> None:
    single.one.start("gpu1")
    healthy(single, "gpu0@one", "gpu1@one")
    asset, color = uploaded(single)
    before = fetches(single)
    job_ids = [single.api.submit(showing(asset, 1.0)) for _ in range(2)]
    for job_id in job_ids:
        shows(single, job_id, color)
    assert {single.ledger.jobs.get(job_id).instance for job_id in job_ids} == {"gpu0@one", "gpu1@one"}
    # One of the GPU workers; the API has looked into it when it came.
    assert fetches(single) == before + 1


def test_a_host_that_is_killed_while_it_fetches_loses_nothing(whole: Machines) -> None:
    asset, color = uploaded(whole)
    with slow(whole, 4.0):
        before = fetches(whole)
        job_id = submit(whole, showing(asset))
        fetching(whole, before)
        dead, other = host_of(whole, job_id)
        dead.kill("gpu0")
    shows(whole, job_id, color)
    job = whole.ledger.jobs.get(job_id)
    assert (job.attempt, [loss.code for loss in job.losses]) == (2, ["instance_lost"])
    assert job.instance == f"gpu0@{'two' if other is whole.two else 'one'}"
    # It comes back, and nothing of that keeps it from fetching the same file.
    dead.start("gpu0")
    other.stop("gpu0")
    healthy(whole, "gpu0@one" if dead is whole.one else "gpu0@two")
    shows(whole, whole.api.submit(showing(asset)), color)
    assert len(list((dead.data_dir / "input-cache" / "drafts").iterdir())) == 0


def test_a_file_that_the_disk_has_spoilt_is_fetched_anew(single: Machines) -> None:
    asset, color = uploaded(single)
    known = set(cached(single.one))
    shows(single, single.api.submit(showing(asset)), color)
    [path] = set(cached(single.one)) - known
    whole, before = path.read_bytes(), fetches(single)
    path.write_bytes(whole[:-7] + b"spoiled")
    shows(single, single.api.submit(showing(asset)), color)
    assert fetches(single) == before + 1
    assert path.read_bytes() == whole
    assert "is spoilt" in single.one.log("gpu0")


def test_a_full_cache_makes_room(single: Machines) -> None:
    for path in cached(single.one):
        path.unlink()
    single.one.stop("gpu0")
    # Three of these pictures, and a file that is larger than all of it.
    single.one.reconfigure(input_cache_gb="0.00000025")
    single.one.start("gpu0")
    healthy(single, "gpu0@one")
    try:
        for _ in range(6):
            asset, color = uploaded(single)
            shows(single, single.api.submit(showing(asset)), color)
        assert 1 <= len(cached(single.one)) <= 3
        assert sum(path.stat().st_size for path in cached(single.one)) <= 250
        noise = io.BytesIO()
        Image.effect_noise((64, 64), 90).convert("RGB").save(noise, "PNG")
        files, form = {"file": ("n.png", noise.getvalue())}, {"file_path": "n.png"}
        large = requests.post(f"{single.api.base_url}/api/v2/assets", files=files, data=form, timeout=30).json()["id"]
        single.api.wait(single.api.submit(showing(large)), "succeeded")
        assert sum(path.stat().st_size for path in cached(single.one)) <= 250
    finally:
        single.one.stop("gpu0")
        single.one.reconfigure(input_cache_gb="10")


def test_a_gpu_runs_other_jobs_while_files_do_not_come(single: Machines) -> None:
    asset, color = uploaded(single)
    single.api.wait(single.api.submit(work(0.1, seed=950)), "succeeded")
    with slow(single, 8.0):
        before = fetches(single)
        waits = submit(single, showing(asset))
        fetching(single, before)
        others = [submit(single, work(0.1, seed=951 + number)) for number in range(3)]
        for job_id in others:
            until(
                lambda job_id=job_id: single.ledger.jobs.get(job_id).status == DELIVERING,  # type: ignore[misc]
                what="a job that needs no file",
                timeout_s=30,
            )
        assert single.ledger.jobs.get(waits).status == RUNNING
    shows(single, waits, color)
    for job_id in others:
        single.api.wait(job_id, "succeeded", timeout_s=60)


def test_a_bucket_that_is_away_when_files_are_needed_costs_no_attempt(single: Machines) -> None:
    asset, color = uploaded(single)
    single.api.wait(single.api.submit(work(0.1, seed=960)), "succeeded")
    with slow(single, 3.0):
        before = fetches(single)
        job_id = submit(single, showing(asset))
        fetching(single, before)
        single.gate.shut()
    healthy(single)
    until(lambda: single.ledger.jobs.get(job_id).status == QUEUED, what="its return", timeout_s=60)
    single.gate.open()
    shows(single, job_id, color)
    assert single.ledger.jobs.get(job_id).losses == ()


def test_a_key_for_partner_nodes_is_there_when_a_job_has_to_run_again(whole: Machines) -> None:
    for host in (whole.one, whole.two):
        host.stop("io")
    extra = {"extra_data": {"api_key_comfy_org": PARTNER_KEY}}
    job_id = whole.api.submit(work(0.2, seed=970), **extra)
    until(lambda: whole.ledger.jobs.get(job_id).status == DELIVERING, what="its files", timeout_s=30)
    dead, other = host_of(whole, job_id)
    dead.kill("gpu0")
    other.start("io")
    # As if it were silent for long enough already.
    set_columns(whole.ledger, job_id, generated_at_ms=now_ms() - LONG_MS)

    job = whole.api.wait(job_id, "succeeded", timeout_s=90)

    assert job["attempt"] == 2
    [url] = [each.url for each in whole.ledger.instances.all() if each.name == job["instance"]]
    assert PARTNER_KEY in requests.get(f"{url}/history", timeout=10).text
    assert whole.ledger.secrets.open(job_id, "run") == {}, "it is gone with the end"
