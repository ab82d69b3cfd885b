"""One file of two has room on a host: jobs of the one come all the time, and the job of the other begins all the same.

The rule itself is that of `tests/unit/core/model_files/test_yielding.py`; here it goes through workers and a server.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator

import pytest

from tests.faults.test_model_files import enter, is_there, lister, loading, queue
from tests.fleet import Fleet
from tests.model_server import ModelServer, content, model_server
from tests.waiting import until

#: Room for one file of this size.
SIZE, LIMIT = 2_000_000, 3_000_000
#: More than both GPUs run: one of these always waits.
AT_ONCE = 5
STEADY, OTHER = "steady.safetensors", "other.safetensors"


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, server: ModelServer) -> Iterator[Fleet]:
    """Two GPUs of one host that know how long both files load."""
    root = tmp_path_factory.mktemp("yields")
    (root / "models").mkdir()
    settings = {"simulated_gpus": "2", "host": "here", "reconcile_s": "0.5", "lease_renew_s": "0.5"}
    settings |= {"models_dir": str(root / "models"), "models_allow_http": "true", "models_max_bytes": str(LIMIT)}
    settings |= {"min_free_disk_bytes": "0"}
    settings |= {"simulator_args": "--simulate-test-nodes --simulate-load-seconds 0 --simulate-step-seconds 0"}
    with Fleet(root, **settings) as fleet:
        fleet.start("broker", "api", "gpu0", "gpu1", "io", "beat").ready()
        for seed, name in enumerate((OTHER, STEADY)):
            enter(fleet, server, name, content(SIZE, seed), size_bytes=SIZE)
            fleet.wait(fleet.submit(loading(name)), "succeeded", timeout_s=60)
        yield fleet


class Stream:
    """Jobs of one file, of which some wait at any time."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._seeds = itertools.count(1)
        #: In the order of their coming.
        self.jobs: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        under_way: list[str] = []
        while not self._over.is_set():
            under_way = [each for each in under_way if self._fleet.job(each)["status"] in ("queued", "running")]
            for _ in range(AT_ONCE - len(under_way)):
                under_way.append(self._fleet.submit(loading(STEADY, seconds=0.5, seed=next(self._seeds))))
                self.jobs.append(under_way[-1])
            self._over.wait(0.05)

    def end(self) -> None:
        self._over.set()


@contextlib.contextmanager
def stream(fleet: Fleet) -> Iterator[Stream]:
    found = Stream(fleet)
    thread = threading.Thread(target=found.run)
    thread.start()
    try:
        until(lambda: len(found.jobs) > AT_ONCE, what="the stream")
        yield found
    finally:
        found.end()
        thread.join()


def yields(fleet: Fleet) -> int:
    """How often the workers have said that one file makes room for the other."""
    told = f"no job begins with {STEADY} until it has made room for checkpoints/{OTHER}"
    return sum(fleet.log(name).count(told) for name in ("gpu0", "gpu1"))


@pytest.mark.parametrize("is_killed", [False, True], ids=["all goes well", "the worker that yields is killed"])
def test_a_job_begins_whose_file_lacks_room_and_the_others_go_on(
    fleet: Fleet, server: ModelServer, is_killed: bool
) -> None:
    before = yields(fleet)
    with stream(fleet) as steady:
        job_id = fleet.submit(loading(OTHER, seed=1 + is_killed))
        came_before = len(steady.jobs)
        until(lambda: yields(fleet) > before, what="that the file makes room", timeout_s=120)
        dead = lister(fleet)
        if is_killed:
            fleet.kill(dead)

        fleet.wait(job_id, "succeeded", timeout_s=120)

        # It was not at once: one that came later has begun before it.
        later = fleet.wait(steady.jobs[came_before], "succeeded")
        assert later["started_at"] < fleet.job(job_id)["started_at"]
        came_after = len(steady.jobs)
        until(lambda: len(steady.jobs) > came_after, what="more jobs of the stream", timeout_s=60)
    for steady_id in steady.jobs:
        fleet.wait(steady_id, "succeeded", timeout_s=120)
    assert is_there(fleet, STEADY)
    assert not is_there(fleet, OTHER)
    assert queue(fleet, job_id) == {}
    if is_killed:
        fleet.start(dead).ready()
