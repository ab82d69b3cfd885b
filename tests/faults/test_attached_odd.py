"""Instances that somebody else runs, behind a proxy without websockets, and not yet."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.ledger.instances import HEALTHY, UNHEALTHY
from tests.fleet import Fleet, work
from tests.ports import free_port
from tests.simulator_process import SimulatorProcess, simulator
from tests.slow_resolver import SLOW_S, slow_resolver
from tests.waiting import until

LATER_PORT = free_port()


@pytest.fixture(scope="module")
def without_websocket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with simulator(tmp_path_factory.mktemp("first"), "--simulate-fault", "socket_refused=1000000") as server:
        yield server


@pytest.fixture(scope="module")
def fleet(without_websocket: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    urls = f"{without_websocket.base_url},http://127.0.0.1:{LATER_PORT},http://gpu.slow.invalid:8188"
    settings = {"comfyui_urls": urls, "lease_renew_s": "1", "reconcile_s": "1", "drain_grace_s": "1"}
    # A server that is away for long is no failure after another.
    settings |= {"comfyui_start_timeout_s": "1", "quarantine_after": "2"}
    with Fleet(tmp_path_factory.mktemp("odd"), **settings) as fleet:
        fleet.with_variables(**slow_resolver(tmp_path_factory.mktemp("resolver")))
        yield fleet.start("broker", "api", "gpu0", "gpu1", "io", "beat").ready(gpus=1)


def instance(fleet: Fleet, name: str) -> dict[str, Any]:
    [found] = [found for found in fleet.instances() if found["name"].startswith(f"{name}@")]
    return found


def test_one_without_a_websocket_runs_jobs_by_polling(fleet: Fleet) -> None:
    seen = until(lambda: (found := instance(fleet, "gpu0")) and found["state"] == HEALTHY and found, what="gpu0")
    assert "websocket is answered with 404" in seen["reason"]

    jobs = [fleet.wait(fleet.submit(work(0.2, seed=seed)), "succeeded") for seed in range(2)]

    assert len({fleet.picture(job) for job in jobs}) == 2


def test_pictures_that_only_a_websocket_brings_are_not_lost_in_silence(fleet: Fleet) -> None:
    graph = work(0.0)
    graph["3"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["2", 0]}}
    error = fleet.wait(fleet.submit(graph), "failed")["error"]
    assert error["code"] == "poison"
    assert "SaveImageWebsocket" in error["message"]


def test_one_that_is_not_there_says_why_at_once_and_is_used_when_it_comes(fleet: Fleet, tmp_path: Path) -> None:
    # Its worker may have started a moment ago.
    seen = until(
        lambda: (found := instance(fleet, "gpu1"))["state"] == UNHEALTHY and found, timeout_s=10, what="a reason"
    )
    assert "connection refused" in seen["reason"]
    assert str(LATER_PORT) not in seen["reason"]
    assert "connection refused" in fleet.command("gpus").stdout

    with simulator(tmp_path, port=LATER_PORT):
        until(lambda: instance(fleet, "gpu1")["state"] == HEALTHY, timeout_s=15, what="its use")
        assert instance(fleet, "gpu1")["restarts"] == 0
        fleet.signal("gpu1", 15)
        assert fleet.processes.pop("gpu1").wait(20) == 0


def test_one_whose_name_is_slow_to_resolve_says_so_and_holds_nobody_up(fleet: Fleet) -> None:
    fleet.start("gpu2")
    seen = until(
        lambda: (
            (found := next((each for each in fleet.instances() if each["name"].startswith("gpu2@")), None))
            and found["state"] == UNHEALTHY
            and found
        ),
        timeout_s=SLOW_S - 2,
        what="a reason",
    )
    assert "its host name is not resolved in time" in seen["reason"]
    fleet.wait(fleet.submit(work(0.1, seed=7)), "succeeded")
    fleet.signal("gpu2", signal.SIGTERM)
    assert fleet.processes.pop("gpu2").wait(10) == 0
