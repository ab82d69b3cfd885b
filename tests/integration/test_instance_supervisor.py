"""A supervised instance as a real process: killed, frozen, crashing and slow, and what its worker is told."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from comfy.instance import Instance, InstanceSpec
from comfy.supervisor import Supervisor
from core.errors import LedgerUnavailable
from tests.fake_comfyui import eventually, is_running, kill, make_spec, whoami


class Watched:
    """A supervisor with everything it said, in order: `up`, or the reason of a loss."""

    def __init__(self, spec: InstanceSpec, *, probe_timeout_s: float = 5.0, **settings: Any) -> None:
        self.said: list[str] = []
        self.said_at: list[float] = []
        self.instance = Instance(spec, probe_timeout_s=probe_timeout_s)
        settings = {"probe_interval_s": 0.1, "first_pause_s": 0.05, **settings}
        settings = {"on_up": lambda: self.say("up"), "on_down": self.say, **settings}
        self.supervisor = Supervisor(self.instance, **settings)

    def say(self, what: str) -> None:
        self.said_at.append(time.time())
        self.said.append(what)

    def kill_instance(self) -> None:
        assert self.instance.pid is not None
        kill(self.instance.pid)

    def is_up_again(self, times: int) -> bool:
        return eventually(lambda: self.said.count("up") == times)


Watch = Callable[..., Watched]


@pytest.fixture
def watch() -> Iterator[Watch]:
    running: list[Watched] = []

    def start(spec: InstanceSpec, **settings: Any) -> Watched:
        watched = Watched(spec, **settings)
        running.append(watched)
        watched.supervisor.start()
        return watched

    yield start
    for watched in running:
        watched.supervisor.stop()


def test_a_killed_instance_comes_back_fresh(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path))
    assert watched.is_up_again(1)
    first = whoami(watched.instance.base_url)
    assert watched.supervisor.state == "healthy"
    assert watched.supervisor.restarts == 0

    watched.kill_instance()

    assert watched.is_up_again(2)
    assert watched.said == ["up", "gpu0 was killed by SIGKILL.", "up"]
    assert whoami(watched.instance.base_url)["boot"] != first["boot"]
    assert watched.supervisor.state == "healthy"
    assert watched.supervisor.restarts == 1
    assert watched.supervisor.last_error == "gpu0 was killed by SIGKILL."


def test_a_crash_loop_slows_down(tmp_path: Path, watch: Watch) -> None:
    starts = tmp_path / "starts"
    watched = watch(make_spec(tmp_path, "--crash", "--starts", str(starts)), first_pause_s=0.2, longest_pause_s=0.8)

    assert eventually(lambda: len(watched.said) == 5)
    watched.supervisor.stop()

    began = [float(line) for line in starts.read_text().split()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert len(began) == 5
    assert all(gap >= least for gap, least in zip(gaps, (0.2, 0.4, 0.8, 0.8), strict=True)), gaps
    assert gaps[3] < 1.6, "the pause must not grow beyond the longest"
    assert watched.supervisor.restarts == 4
    assert "up" not in watched.said
    assert "CUDA error" in watched.said[-1]
    assert "exited with code 3" in (watched.supervisor.last_error or "")


def test_the_pause_starts_again_after_a_healthy_time(tmp_path: Path, watch: Watch) -> None:
    starts = tmp_path / "starts"
    watched = watch(make_spec(tmp_path, "--starts", str(starts)), first_pause_s=0.3, healthy_after_s=0.0)
    for times in range(1, 5):
        assert watched.is_up_again(times)
        watched.kill_instance()
    assert watched.is_up_again(5)

    began = [float(line) for line in starts.read_text().split()]
    lost = [at for at, what in zip(watched.said_at, watched.said, strict=True) if what != "up"]
    pauses = [start - loss for start, loss in zip(began[1:], lost, strict=True)]
    assert all(pause >= 0.3 for pause in pauses), pauses
    assert pauses[-1] < 1.8, "without a reset the fourth pause would be 2.4 s"


def test_a_frozen_instance_is_replaced(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path), probe_timeout_s=0.4)
    assert watched.is_up_again(1)
    frozen = watched.instance.pid
    assert frozen is not None

    os.kill(frozen, signal.SIGSTOP)

    assert watched.is_up_again(2)
    assert watched.said == ["up", "gpu0 no longer answers.", "up"]
    assert not is_running(frozen)
    assert watched.instance.pid != frozen


def test_one_missed_probe_is_forgiven(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path), probe_timeout_s=0.5, misses=3)
    assert watched.is_up_again(1)
    pid = watched.instance.pid
    assert pid is not None

    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.8)
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.5)

    assert watched.said == ["up"]
    assert watched.instance.pid == pid


def test_a_reported_loss_is_looked_at_at_once(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path), probe_interval_s=30.0)
    assert watched.is_up_again(1)
    watched.kill_instance()
    assert eventually(lambda: not watched.instance.is_alive)
    time.sleep(0.3)
    assert watched.said == ["up"], "nobody looked yet"

    watched.supervisor.report_lost()

    assert watched.is_up_again(2)


def test_a_false_report_changes_nothing(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path), probe_interval_s=30.0)
    assert watched.is_up_again(1)
    watched.supervisor.report_lost()
    time.sleep(0.5)
    assert watched.said == ["up"]


def test_an_instance_that_a_job_stopped_is_replaced(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path))
    assert watched.is_up_again(1)
    watched.instance.stop(grace_s=0)
    assert watched.is_up_again(2)
    assert watched.said == ["up", "gpu0 was stopped.", "up"]


def test_stop_ends_the_instance_and_says_nothing(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path, "--child"))
    assert watched.is_up_again(1)
    me = whoami(watched.instance.base_url)

    watched.supervisor.stop()

    assert not is_running(me["pid"])
    assert not is_running(me["child"])
    assert watched.said == ["up"]
    assert watched.supervisor.state == "stopped"
    watched.supervisor.stop()


def test_stop_does_not_wait_for_a_slow_start(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path, "--silent", start_timeout_s=60.0))
    assert eventually(lambda: watched.instance.is_alive)
    assert watched.supervisor.state == "starting"
    pid = watched.instance.pid
    assert pid is not None
    began = time.monotonic()

    watched.supervisor.stop()

    assert time.monotonic() - began < 5
    assert not is_running(pid)


def test_news_that_could_not_be_told_is_told_again(tmp_path: Path, watch: Watch) -> None:
    tries: list[str] = []

    def on_up() -> None:
        tries.append("up")
        if len(tries) < 3:
            raise LedgerUnavailable("the ledger is away")

    def on_down(reason: str) -> None:
        raise LedgerUnavailable("the ledger is away")

    watched = watch(make_spec(tmp_path), on_up=on_up, on_down=on_down)
    assert eventually(lambda: len(tries) == 3)
    watched.kill_instance()
    assert eventually(lambda: len(tries) == 4), "a ledger that is away must not keep the instance down"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_broken_callback_stops_the_instance_too(tmp_path: Path, watch: Watch) -> None:
    pids: list[int | None] = []

    def on_up() -> None:
        pids.append(watched.instance.pid)
        raise ZeroDivisionError

    watched = watch(make_spec(tmp_path), on_up=on_up)
    assert eventually(lambda: watched.supervisor.state == "stopped")
    assert eventually(lambda: watched.instance.pid is None)
    assert pids[0] is not None
    assert not is_running(pids[0])


def test_stop_from_a_callback_does_not_wait_for_itself(tmp_path: Path, watch: Watch) -> None:
    called = threading.Event()

    def on_up() -> None:
        watched.supervisor.stop()
        called.set()

    watched = watch(make_spec(tmp_path), on_up=on_up)
    assert called.wait(10)
    assert eventually(lambda: watched.instance.pid is None)


def test_a_restarted_simulator_has_forgotten_everything(tmp_path: Path, watch: Watch) -> None:
    spec = InstanceSpec(name="gpu0", gpu=None, kind="simulator", data_dir=tmp_path / "gpu0", start_timeout_s=30.0)
    watched = watch(spec)
    assert watched.is_up_again(1)
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "kept"}},
    }
    body = {"prompt": graph, "prompt_id": str(uuid.uuid4()), "client_id": "test"}
    assert requests.post(f"{watched.instance.base_url}/prompt", json=body, timeout=10).status_code == 200
    assert eventually(lambda: history_of(watched.instance))

    watched.kill_instance()

    assert watched.is_up_again(2)
    assert history_of(watched.instance) == {}
    assert watched.instance.output_dir is not None
    assert [path.name for path in watched.instance.output_dir.iterdir()] == ["kept_00001_.png"]


def history_of(instance: Instance) -> dict[str, Any]:
    history: dict[str, Any] = requests.get(f"{instance.base_url}/history", timeout=10).json()
    return history


def test_an_attached_instance_is_followed(tmp_path: Path, watch: Watch) -> None:
    theirs = watch(make_spec(tmp_path), first_pause_s=1.0)
    assert theirs.is_up_again(1)
    attached = watch(make_spec(tmp_path, kind="attached", name="remote", url=theirs.instance.base_url))
    assert attached.is_up_again(1)

    theirs.supervisor.stop()

    assert eventually(lambda: "remote no longer answers." in attached.said)
    attached.supervisor.stop()
