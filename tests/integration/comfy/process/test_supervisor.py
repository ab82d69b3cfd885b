"""A supervised instance as a real process: killed, frozen, crashing, slow, unfit, and what its worker is told."""

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

from comfy.liveness.muteness import MuteLimits
from comfy.process.instance import Instance, InstanceSpec
from comfy.process.supervisor import InstanceUnfit, Supervisor
from core.errors import LedgerUnavailable
from tests.comfy_target import with_node
from tests.fake_comfyui import is_running, kill, make_spec, whoami
from tests.waiting import eventually


class Watched:
    """A supervisor with everything it said, in order: `up`, or the reason of a loss."""

    def __init__(self, spec: InstanceSpec, *, probe_timeout_s: float = 5.0, **settings: Any) -> None:
        self.said: list[str] = []
        self.said_at: list[float] = []
        #: When the last quarantine ends, as it was told.
        self.until_s = 0.0
        self.instance = Instance(spec, probe_timeout_s=probe_timeout_s)
        settings = {"probe_interval_s": 0.1, "first_pause_s": 0.05, **settings}
        settings = {"on_up": lambda: self.say("up"), "on_down": self.say, **settings}
        settings = {"on_quarantine": self.say_quarantined, **settings}
        self.supervisor = Supervisor(self.instance, **settings)

    def say(self, what: str) -> None:
        self.said_at.append(time.time())
        self.said.append(what)

    def say_quarantined(self, reason: str, until_s: float) -> None:
        self.until_s = until_s
        self.say(f"quarantine: {reason}")

    def is_quarantined(self) -> bool:
        return eventually(lambda: self.supervisor.state == "quarantined" and self.said[-1].startswith("quarantine"))

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
    spec = make_spec(tmp_path, "--crash", "--starts", str(starts))
    watched = watch(spec, first_pause_s=0.2, longest_pause_s=0.8, quarantine_after=9)

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
    watched = watch(make_spec(tmp_path), probe_timeout_s=0.4, mute_limits=MuteLimits(idle_s=1.0))
    assert watched.is_up_again(1)
    frozen = watched.instance.pid
    assert frozen is not None

    os.kill(frozen, signal.SIGSTOP)

    assert watched.is_up_again(2)
    assert watched.said == ["up", "gpu0 has answered nothing and done no work for 1 s.", "up"]
    assert not is_running(frozen)
    assert watched.instance.pid != frozen


def test_an_instance_that_is_busy_and_mute_is_left_alone(tmp_path: Path, watch: Watch) -> None:
    mute: list[bool] = []
    watched = watch(
        simulator_spec(tmp_path), probe_timeout_s=0.3, mute_limits=MuteLimits(idle_s=1.0), on_mute=mute.append
    )
    assert watched.is_up_again(1)
    pid = watched.instance.pid

    keep_mute(watched.instance, seconds=3.0, works=True)

    assert eventually(lambda: not watched.instance.probe(), timeout_s=5.0)
    assert eventually(lambda: history_of(watched.instance), timeout_s=20.0)
    assert watched.said == ["up"]
    assert watched.instance.pid == pid
    # On a loaded machine a probe may be late for other reasons, too.
    assert eventually(lambda: mute and not mute[-1])
    assert mute[:2] == [True, False]


def test_an_instance_that_is_mute_and_idle_for_a_moment_is_left_alone(tmp_path: Path, watch: Watch) -> None:
    # A call that holds the lock and waits for a driver or a disk looks dead from outside, for as long as it takes.
    watched = watch(simulator_spec(tmp_path), probe_timeout_s=0.3, mute_limits=MuteLimits(idle_s=20.0))
    assert watched.is_up_again(1)

    keep_mute(watched.instance, seconds=2.0, works=False)

    assert eventually(lambda: not watched.instance.probe(), timeout_s=5.0)
    assert eventually(lambda: history_of(watched.instance), timeout_s=20.0)
    assert watched.said == ["up"]


def test_a_busy_instance_that_is_mute_for_too_long_is_replaced(tmp_path: Path, watch: Watch) -> None:
    watched = watch(simulator_spec(tmp_path), probe_timeout_s=0.3, mute_limits=MuteLimits(idle_s=1.0, busy_s=2.5))
    assert watched.is_up_again(1)

    keep_mute(watched.instance, seconds=60.0, works=True)

    assert watched.is_up_again(2)
    assert watched.said == ["up", "gpu0 has answered nothing for 2.5 s.", "up"]


def test_an_instance_that_refuses_connections_is_replaced_at_once(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path), mute_limits=MuteLimits(idle_s=60.0))
    assert watched.is_up_again(1)

    requests.get(f"{watched.instance.base_url}/close", timeout=5)

    assert watched.is_up_again(2)
    assert watched.said == ["up", "gpu0 no longer answers.", "up"]


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

    assert time.monotonic() - began < 15
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


def test_a_broken_callback_ends_neither_the_supervision_nor_the_instance(tmp_path: Path, watch: Watch) -> None:
    pids: list[int | None] = []
    downs: list[str] = []

    def on_up() -> None:
        pids.append(watched.instance.pid)
        if len(pids) < 3:
            raise AttributeError("of ours")

    def on_down(reason: str) -> None:
        downs.append(reason)
        raise AttributeError("of ours")

    watched = watch(make_spec(tmp_path), on_up=on_up, on_down=on_down)
    assert eventually(lambda: len(pids) == 3)
    assert len(set(pids)) == 1, "the instance has nothing to do with it"
    assert watched.supervisor.state == "healthy"
    watched.kill_instance()
    assert eventually(lambda: len(pids) == 4 and watched.supervisor.state == "healthy")
    assert downs == ["gpu0 was killed by SIGKILL."]


def test_a_quarantine_that_stumbles_over_its_news_ends_all_the_same(tmp_path: Path, watch: Watch) -> None:
    tries: list[str] = []

    def on_quarantine(reason: str, _until_s: float) -> None:
        tries.append(reason)
        raise AttributeError("of ours")

    watched = watch(make_spec(tmp_path), on_quarantine=on_quarantine, quarantine_after=1, quarantine_s=1.5)
    assert watched.is_up_again(1)
    watched.kill_instance()
    assert watched.is_up_again(2)
    assert len(tries) > 1, "it is told again"


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


def simulator_spec(directory: Path) -> InstanceSpec:
    return InstanceSpec(
        name="gpu0",
        gpu=None,
        kind="simulator",
        data_dir=directory / "gpu0",
        start_timeout_s=30.0,
        extra_args=("--simulate-test-nodes",),
    )


def keep_mute(instance: Instance, *, seconds: float, works: bool) -> None:
    """Run a node that holds the interpreter's lock in one call."""
    graph = with_node("T_Mute", seconds=seconds, works=works)
    body = {"prompt": graph, "prompt_id": str(uuid.uuid4()), "client_id": "test"}
    assert requests.post(f"{instance.base_url}/prompt", json=body, timeout=10).status_code == 200


def history_of(instance: Instance) -> dict[str, Any]:
    history: dict[str, Any] = requests.get(f"{instance.base_url}/history", timeout=20).json()
    return history


def test_an_attached_instance_is_followed(tmp_path: Path, watch: Watch) -> None:
    theirs = watch(make_spec(tmp_path), first_pause_s=1.0)
    assert theirs.is_up_again(1)
    attached = watch(make_spec(tmp_path, kind="attached", name="remote", url=theirs.instance.base_url))
    assert attached.is_up_again(1)

    theirs.supervisor.stop()

    assert eventually(lambda: "remote no longer answers." in attached.said)
    attached.supervisor.stop()


def test_an_attached_instance_that_is_mute_is_away_once_and_comes_back(tmp_path: Path, watch: Watch) -> None:
    theirs = watch(simulator_spec(tmp_path / "theirs"))
    assert theirs.is_up_again(1)
    spec = make_spec(tmp_path, kind="attached", name="remote", url=theirs.instance.base_url, start_timeout_s=0.1)
    waits: list[str] = []
    attached = watch(
        spec, probe_timeout_s=0.3, mute_limits=MuteLimits(idle_s=1.0), quarantine_after=2, on_wait=waits.append
    )
    assert attached.is_up_again(1)

    keep_mute(theirs.instance, seconds=4.0, works=True)

    assert attached.is_up_again(2)
    assert attached.said == ["up", "remote has answered nothing for 1 s.", "up"]
    assert waits == ["remote: ComfyUI does not answer GET /prompt: it took the connection, but did not answer in time."]


# Replacing and restarting.


def test_a_useless_instance_is_replaced(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path, "--child"), probe_interval_s=30.0)
    assert watched.is_up_again(1)
    first = whoami(watched.instance.base_url)

    watched.supervisor.replace("The prompt is stuck.")

    assert watched.is_up_again(2)
    assert watched.said == ["up", "The prompt is stuck.", "up"]
    assert not is_running(first["pid"])
    assert not is_running(first["child"])
    assert whoami(watched.instance.base_url)["boot"] != first["boot"]
    assert watched.supervisor.last_error == "The prompt is stuck."
    assert watched.supervisor.restarts == 1


def test_down_is_said_before_the_useless_process_ends(tmp_path: Path, watch: Watch) -> None:
    was_alive: list[bool] = []

    def on_down(_reason: str) -> None:
        was_alive.append(watched.instance.is_alive)

    watched = watch(make_spec(tmp_path), on_down=on_down)
    assert watched.is_up_again(1)
    watched.supervisor.replace("The prompt is stuck.")
    assert watched.is_up_again(2)
    assert was_alive == [True]


def test_what_is_not_healthy_cannot_be_replaced(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path, "--silent", start_timeout_s=60.0), quarantine_after=1)
    assert eventually(lambda: watched.instance.is_alive)
    pid = watched.instance.pid
    watched.supervisor.replace("The prompt is stuck.")
    time.sleep(0.3)
    assert watched.said == []
    assert watched.instance.pid == pid
    assert watched.supervisor.state == "starting"


def test_replacing_again_and_again_ends_in_a_quarantine(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path), quarantine_after=2)
    for times in (1, 2):
        assert watched.is_up_again(times)
        watched.supervisor.replace(f"Stuck, {times}.")
    assert watched.is_quarantined()
    assert watched.said == ["up", "Stuck, 1.", "up", "Stuck, 2.", "quarantine: Stuck, 2."]
    assert watched.instance.pid is None


def test_a_restart_on_request_is_no_failure(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path), first_pause_s=60.0, probe_interval_s=30.0, quarantine_after=1)
    for times in (1, 2):
        assert watched.is_up_again(times)
        pid = watched.instance.pid
        assert pid is not None
        watched.supervisor.restart()
        assert watched.is_up_again(times + 1)
        assert not is_running(pid)
    assert watched.said == ["up", *["gpu0 is restarted on request.", "up"] * 2]
    assert watched.supervisor.restarts == 2
    assert watched.supervisor.last_error is None


def test_a_restart_calls_a_slow_start_off(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path, "--silent", start_timeout_s=60.0), first_pause_s=60.0, quarantine_after=1)
    assert eventually(lambda: watched.instance.is_alive)
    pid = watched.instance.pid
    assert pid is not None

    watched.supervisor.restart()

    # None while the first one is being ended.
    assert eventually(lambda: watched.instance.pid not in (None, pid))
    assert not is_running(pid)
    assert watched.supervisor.last_error is None


def test_a_restart_ends_a_pause(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path), first_pause_s=60.0)
    assert watched.is_up_again(1)
    watched.kill_instance()
    assert eventually(lambda: watched.supervisor.state == "restarting" and watched.instance.pid is None)
    watched.supervisor.restart()
    assert watched.is_up_again(2)


def test_an_attached_instance_rests_when_it_is_useless(tmp_path: Path, watch: Watch) -> None:
    theirs = watch(make_spec(tmp_path))
    assert theirs.is_up_again(1)
    pid = theirs.instance.pid
    spec = make_spec(tmp_path, kind="attached", name="remote", url=theirs.instance.base_url)
    attached = watch(spec, first_pause_s=0.5, quarantine_after=2, quarantine_s=60.0)
    assert attached.is_up_again(1)

    attached.supervisor.replace("The prompt is stuck.")

    assert attached.is_up_again(2)
    assert attached.said == ["up", "The prompt is stuck.", "up"]
    assert attached.said_at[2] - attached.said_at[1] >= 0.5
    attached.supervisor.replace("The prompt is stuck again.")
    assert attached.is_quarantined()
    assert theirs.instance.pid == pid
    assert theirs.said == ["up"]


# Starts that fail though the instance answers.


def test_an_unfit_instance_has_failed_to_start(tmp_path: Path, watch: Watch) -> None:
    pids: list[int | None] = []

    def on_up() -> None:
        pids.append(watched.instance.pid)
        if len(pids) < 3:
            raise InstanceUnfit("The warm-up failed.")
        watched.say("up")

    watched = watch(make_spec(tmp_path), on_up=on_up, first_pause_s=0.2)
    assert watched.is_up_again(1)
    assert watched.said == ["The warm-up failed.", "The warm-up failed.", "up"]
    assert watched.said_at[1] - watched.said_at[0] >= 0.2
    assert watched.said_at[2] - watched.said_at[1] >= 0.4
    assert len(set(pids)) == 3, "each start is a new process"
    assert not any(is_running(pid) for pid in pids[:2] if pid is not None)
    assert watched.supervisor.restarts == 2


def test_an_unfit_instance_is_quarantined(tmp_path: Path, watch: Watch) -> None:
    def on_up() -> None:
        raise InstanceUnfit("The warm-up failed.")

    watched = watch(make_spec(tmp_path), on_up=on_up, quarantine_after=2)
    assert watched.is_quarantined()
    assert watched.said == ["The warm-up failed."] * 2 + ["quarantine: The warm-up failed."]


# Quarantine.


def test_a_crash_loop_ends_in_a_quarantine(tmp_path: Path, watch: Watch) -> None:
    before_s = time.time()
    watched = watch(make_spec(tmp_path, "--crash"), quarantine_after=3, quarantine_s=60.0)
    assert watched.is_quarantined()
    assert len(watched.said) == 4, "three failures, and then the quarantine"
    assert watched.said[3] == f"quarantine: {watched.said[2]}"
    assert "exited with code 3" in watched.said[3]
    assert before_s + 60 < watched.until_s <= time.time() + 60
    assert watched.instance.pid is None
    time.sleep(0.3)
    assert len(watched.said) == 4, "nothing is started in quarantine"


def test_a_quarantine_ends_by_itself_with_a_clean_record(tmp_path: Path, watch: Watch) -> None:
    starts = tmp_path / "starts"
    spec = make_spec(tmp_path, "--crash", "--starts", str(starts))
    watched = watch(spec, first_pause_s=0.5, quarantine_after=2, quarantine_s=1.0)
    assert eventually(lambda: len(watched.said) == 6)
    watched.supervisor.stop()

    assert [what.startswith("quarantine") for what in watched.said] == [False, False, True] * 2
    began = [float(line) for line in starts.read_text().split()]
    assert began[2] - watched.said_at[2] >= 0.9
    assert 0.5 <= began[3] - watched.said_at[3] < 1.0, "the first pause again, not the second"


def test_failures_long_ago_do_not_count(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path, "--crash"), first_pause_s=0.3, quarantine_after=2, quarantine_window_s=0.2)
    assert eventually(lambda: len(watched.said) == 4)
    assert not any(what.startswith("quarantine") for what in watched.said)


@pytest.mark.parametrize("way_out", ["release", "restart"])
def test_a_quarantine_can_be_ended(tmp_path: Path, watch: Watch, way_out: str) -> None:
    watched = watch(make_spec(tmp_path), quarantine_after=1, quarantine_s=60.0)
    assert watched.is_up_again(1)
    watched.kill_instance()
    assert watched.is_quarantined()

    getattr(watched.supervisor, way_out)()

    assert watched.is_up_again(2)
    assert watched.said == ["up", "gpu0 was killed by SIGKILL.", "quarantine: gpu0 was killed by SIGKILL.", "up"]
    assert watched.supervisor.state == "healthy"


def test_releasing_a_healthy_instance_changes_nothing(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path))
    assert watched.is_up_again(1)
    watched.supervisor.release()
    time.sleep(0.3)
    assert watched.said == ["up"]
    assert watched.supervisor.restarts == 0


def test_stop_does_not_wait_for_the_end_of_a_quarantine(tmp_path: Path, watch: Watch) -> None:
    watched = watch(make_spec(tmp_path, "--crash"), quarantine_after=1, quarantine_s=60.0)
    assert watched.is_quarantined()
    began = time.monotonic()
    watched.supervisor.stop()
    assert time.monotonic() - began < 15
    assert watched.supervisor.state == "stopped"
    assert len(watched.said) == 2


def test_a_quarantine_that_could_not_be_told_is_told_again(tmp_path: Path, watch: Watch) -> None:
    tries: list[str] = []

    def on_quarantine(reason: str, _until_s: float) -> None:
        tries.append(reason)
        if len(tries) < 3:
            raise LedgerUnavailable("the ledger is away")

    watch(make_spec(tmp_path, "--crash"), on_quarantine=on_quarantine, quarantine_after=1)
    assert eventually(lambda: len(tries) == 3)
    time.sleep(0.3)
    assert len(tries) == 3
