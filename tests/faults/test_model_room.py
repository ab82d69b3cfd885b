"""A folder of models with room for one file: a stream of jobs that never ends keeps nobody else out for ever."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.test_model_files import SIZE, enter, is_there, loading, queue
from tests.fleet import Fleet
from tests.model_server import ModelServer, content, model_server
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / "models").mkdir()
    settings = {"simulated_gpus": "2", "host": "here", "reconcile_s": "0.5", "lease_renew_s": "0.5"}
    settings |= {"models_dir": str(tmp_path / "models"), "models_allow_http": "true", "min_free_disk_bytes": "0"}
    settings |= {"models_max_bytes": str(SIZE * 3 // 2)}
    settings |= {"simulator_args": "--simulate-test-nodes --simulate-load-seconds 0 --simulate-step-seconds 0"}
    with Fleet(tmp_path, **settings) as fleet:
        yield fleet.start("broker", "api", "gpu0", "gpu1", "io", "beat").ready()


class Stream:
    """Jobs of one file, of which some always wait, and all GPUs run some."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet = fleet
        self._name = name
        self.jobs: list[str] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        seeds = itertools.count(1000)
        while not self._is_over.wait(0.1):
            open_jobs = [job for job in self.jobs[-12:] if self._fleet.job(job)["status"] in ("queued", "running")]
            for _ in range(8 - len(open_jobs)):
                self.jobs.append(self._fleet.submit(loading(self._name, seconds=1.5, seed=next(seeds))))


def test_a_job_for_another_file_has_its_turn_and_then_the_stream_again(fleet: Fleet, server: ModelServer) -> None:
    one, other = (enter(fleet, server, f"{name}.safetensors", content(SIZE, ord(name))) for name in "ab")
    # How long a load takes is known afterwards, and so is how fast files come.
    fleet.wait(fleet.submit(loading(other)), "succeeded")
    fleet.wait(fleet.submit(loading(one)), "succeeded")
    until(lambda: not is_there(fleet, other), what="its end, for want of room")

    with Stream(fleet, one) as stream:
        until(lambda: len(stream.jobs) > 8, what="a stream")
        late = fleet.submit(loading(other, seed=1))
        until(
            lambda: queue(fleet, late).get("reason_code") == "fetching" or fleet.job(late)["status"] != "queued",
            what="why it waits",
        )
        fleet.wait(late, "succeeded", timeout_s=120)
        served = len(stream.jobs)
        until(lambda: len(stream.jobs) > served + 6, what="the stream to go on", timeout_s=120)

    for job_id in stream.jobs:
        job = fleet.wait(job_id, "succeeded", timeout_s=60)
        assert job["losses"] == [], "nothing is lost for that"
    logs = fleet.log("gpu0") + fleet.log("gpu1")
    assert f"no job begins with {one} until it has made room for checkpoints/{other}" in logs
    assert is_there(fleet, one)
    assert not is_there(fleet, other)
