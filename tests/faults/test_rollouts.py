"""All hosts are renewed while jobs run, and whatever has a part in it is killed in the middle: no job is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fleet import ROOT, Fleet
from tests.rolling_fleet import RollingFleet, answers, rolling_fleet
from tests.waiting import PATIENCE, until

PATH = "/api/v2/rollouts"
#: For one host of these, on a machine that is busy.
HOST_S = 90
#: What a rollout gives one host to come back, where it does, and where it is killed and does not.
LONG, SHORT = f"{120 * PATIENCE:g}", f"{40 + 10 * PATIENCE:g}"
pytestmark = pytest.mark.timeout(600)

#: Brings a version of Comfyline as far as the code can tell: what its distribution says of itself comes first.
BRING = """
import os, pathlib, sys
version = os.environ["UPGRADE_VERSION"]
folder = pathlib.Path(sys.argv[1]) / f"comfyline-{version}.dist-info"
folder.mkdir(parents=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: comfyline\\nVersion: {version}\\n")
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RollingFleet]:
    """A home host without GPUs, and three with one or two, one of them under `comfyline gpu`."""
    root = tmp_path_factory.mktemp("rollouts")
    with rolling_fleet(root, reconcile_s="1", host_lost_s="30") as found:
        found.home.start("broker", "api", "io", "beat")
        until(lambda: answers(found.home), timeout_s=90, what="the API")
        (root / "bring.py").write_text(BRING)
        for name, gpus in (("a", "2"), ("b", "1"), ("c", "1")):
            site = root / f"site-{name}"
            command = f"{sys.executable} {root / 'bring.py'} {site}"
            host = found.host(name, simulated_gpus=gpus, **({"upgrade_command": command} if name == "a" else {}))
            # A checkout that was installed says its version as well, and says it first where processes begin in it.
            host.with_variables(PYTHONSAFEPATH="1", PYTHONPATH=f"{site}{os.pathsep}{ROOT}")
            host.start("gpu" if name == "a" else "gpu0", *(["io"] if name == "a" else []))
        found.home.ready(gpus=4, timeout_s=180)
        yield found


def newest(fleet: RollingFleet) -> dict[str, Any]:
    """The newest rollout; empty while the API is away."""
    with contextlib.suppress(requests.RequestException):
        answer = requests.get(f"{fleet.home.base_url}{PATH}?limit=1", timeout=10)
        if answer.ok and answer.json()["rollouts"]:
            found: dict[str, Any] = answer.json()["rollouts"][0]
            return found
    return {}


needs_safe_path = pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH is of Python 3.11")


def site_of(host: Fleet) -> Path:
    """Where a host's own version is put."""
    return Path(host.environment()["PYTHONPATH"].partition(os.pathsep)[0])


def states(found: Mapping[str, Any]) -> dict[str, str]:
    return {host["host"]: host["state"] for host in found.get("hosts", ())}


def ended(fleet: RollingFleet, *, hosts: int) -> dict[str, Any]:
    """Wait for the end of the newest rollout."""
    started = newest(fleet)

    def over() -> dict[str, Any] | None:
        found = newest(fleet)
        return found if found and found["state"] != "running" else None

    found: dict[str, Any] = until(over, timeout_s=hosts * HOST_S, what=f"the end of {started}")
    return found


def order(fleet: RollingFleet, *words: str) -> str:
    done = fleet.home.command("rollout", *words, "--no-wait")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def host_is(fleet: RollingFleet, host: str, *wanted: str) -> bool:
    found = newest(fleet)
    assert found.get("state") != "stopped", json.dumps(found)
    return states(found).get(host) in wanted


def hosts_in(fleet: RollingFleet, *states: str) -> frozenset[str]:
    """The hosts of the GPUs that are in one of these states."""
    return frozenset(gpu["name"].partition("@")[2] for gpu in fleet.home.instances() if gpu["state"] in states)


def acts(fleet: RollingFleet, rollout: str) -> list[str]:
    answer = requests.get(f"{fleet.home.base_url}/api/v2/audit?subject={rollout}", timeout=10)
    return [act["act"] for act in answer.json()["acts"]][::-1]


def test_all_are_restarted_and_nothing_is_lost(fleet: RollingFleet) -> None:
    before = fleet.workers()
    supervisor = fleet.hosts["a"].processes["gpu"]
    load = fleet.load()
    rollout = order(fleet, "restart", "--watch", "1", "--timeout", LONG)
    away: set[frozenset[str]] = set()
    while (found := newest(fleet)) == {} or found["state"] == "running":
        with contextlib.suppress(requests.RequestException):
            away.add(hosts_in(fleet, "starting", "unhealthy", "draining", "drained", "stopped", "lost"))
        time.sleep(0.4)

    jobs = load.finish()
    assert (found["state"], states(found)) == ("done", dict.fromkeys(("a", "b", "c", "home"), "done"))
    after = fleet.workers()
    assert before.keys() == after.keys() == {"gpu0@a", "gpu1@a", "gpu0@b", "gpu0@c"}
    assert not set(before.values()) & set(after.values()), "each worker is another one"
    assert max(map(len, away)) == 1, f"one host after the other: {away}"
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert fleet.lost() == []
    # Whoever supervises them has noticed nothing, the API's own process included.
    assert supervisor.poll() is None
    assert all(process.poll() is None for host in fleet.hosts.values() for process in host.processes.values())
    assert acts(fleet, rollout) == ["rollout.begin", "rollout.done"]


def test_it_goes_on_when_the_command_and_who_drives_it_are_killed(fleet: RollingFleet) -> None:
    before = fleet.workers()
    load = fleet.load()
    command = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "rollout", "restart", "--host", "b", "--host", "c", "--watch", "1"],
        cwd=ROOT,
        env={"COMFY_BASE_URL": fleet.home.base_url, **fleet.home.environment()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: host_is(fleet, "b", "renewing"), timeout_s=HOST_S, what="the first turn")
    command.send_signal(signal.SIGKILL)
    command.wait(10)
    # Both that could go on with it: the one on the host `a` takes ticks, too.
    fleet.home.kill("io")
    fleet.hosts["a"].kill("io")
    fleet.home.start("io")
    fleet.hosts["a"].start("io")

    found = ended(fleet, hosts=3)
    jobs = load.finish()
    assert (found["state"], states(found)) == ("done", {"b": "done", "c": "done"})
    after = fleet.workers()
    assert {name for name in before if before[name] != after[name]} == {"gpu0@b", "gpu0@c"}
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert fleet.lost() == []
    shown = fleet.home.command("rollout", "status")
    assert (shown.returncode, shown.stdout.count("done")) == (0, 3)


def test_a_host_that_is_killed_in_its_turn_stops_it_and_it_is_taken_up_again(fleet: RollingFleet) -> None:
    before = fleet.workers()
    load = fleet.load(seconds=3.0)
    until(lambda: len(load.job_ids) > 5, what="jobs")
    rollout = order(fleet, "restart", "--host", "b", "--host", "c", "--watch", "1", "--timeout", SHORT)
    until(lambda: host_is(fleet, "b", "renewing"), timeout_s=HOST_S, what="the first turn")
    fleet.hosts["b"].kill("gpu0")

    found = ended(fleet, hosts=1)
    assert (found["state"], states(found)) == ("stopped", {"b": "failed", "c": "waiting"})
    assert "gpu0@b" in found["reason"]
    assert fleet.workers()["gpu0@c"] == before["gpu0@c"], "the rest is as it was"
    assert fleet.home.command("rollout", "status").returncode == 1

    fleet.hosts["b"].start("gpu0")
    fleet.home.ready(gpus=4, timeout_s=120)
    resumed = fleet.home.command("rollout", "resume", "--no-wait")
    assert resumed.returncode == 0, resumed.stderr
    found = ended(fleet, hosts=2)
    assert (found["state"], states(found)) == ("done", {"b": "done", "c": "done"})
    jobs = load.finish()
    assert {job["status"] for job in jobs} == {"succeeded"}
    # The kill costs the job that ran then, if one did, and no renewal costs anything.
    assert len(fleet.lost()) <= 1
    assert acts(fleet, rollout) == ["rollout.begin", "rollout.stop", "rollout.resume", "rollout.done"]


def test_an_abort_leaves_the_rest_as_it_is(fleet: RollingFleet) -> None:
    before, lost = fleet.workers(), set(fleet.lost())
    load = fleet.load(seconds=8.0, at_once=5)
    until(lambda: len(load.job_ids) > 4, what="jobs")
    time.sleep(2)
    rollout = order(fleet, "restart", "--host", "b")
    until(lambda: "b" in hosts_in(fleet, "draining"), what="a drain")
    # Not by a command, which takes on a busy machine as long to start as the jobs that are drained.
    aborted = requests.post(f"{fleet.home.base_url}{PATH}/{rollout}/abort", timeout=10 * PATIENCE)
    assert aborted.ok, aborted.text

    assert newest(fleet)["state"] == "aborted"
    until(lambda: len(fleet.home.instances("healthy")) == 4, what="GPUs that take jobs again")
    assert fleet.workers() == before
    assert {job["status"] for job in load.finish()} == {"succeeded"}
    assert set(fleet.lost()) == lost


@needs_safe_path
def test_an_upgrade_runs_the_hosts_own_command_or_waits_for_who_rolls_its_image(fleet: RollingFleet) -> None:
    before, lost = fleet.workers(), set(fleet.lost())
    load = fleet.load()
    order(fleet, "upgrade", "7.0.0", "--host", "a", "--host", "b", "--watch", "1", "--timeout", LONG)
    until(lambda: host_is(fleet, "a", "done"), timeout_s=2 * HOST_S, what="the host with a command")
    # The other one has none: it is drained, and waits.
    until(lambda: host_is(fleet, "b", "replacing"), timeout_s=HOST_S, what="the one without")
    until(lambda: hosts_in(fleet, "drained") == {"b"}, what="a GPU at rest")
    host = fleet.hosts["b"]
    host.stop("gpu0")
    (site := site_of(host) / "comfyline-7.0.0.dist-info").mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: comfyline\nVersion: 7.0.0\n")
    host.start("gpu0")

    found = ended(fleet, hosts=1)
    assert (found["state"], states(found)) == ("done", {"a": "done", "b": "done"})
    after = fleet.workers()
    assert {name for name in before if before[name] != after[name]} == {"gpu0@a", "gpu1@a", "gpu0@b"}
    assert {job["status"] for job in load.finish()} == {"succeeded"}
    assert set(fleet.lost()) == lost
    again = fleet.home.command("rollout", "upgrade", "7.0.0", "--host", "a", "--host", "b")
    assert (again.returncode, again.stdout.count("skipped")) == (0, 2)


def test_a_command_that_brings_nothing_stops_it(fleet: RollingFleet) -> None:
    # It refuses to bring the same version twice: its folder is there.
    (site_of(fleet.hosts["a"]) / "comfyline-8.0.0.dist-info").mkdir(parents=True)
    before = fleet.workers()
    order(fleet, "upgrade", "8.0.0", "--host", "a", "--host", "c")
    found = ended(fleet, hosts=1)

    assert (found["state"], states(found)) == ("stopped", {"a": "failed", "c": "waiting"})
    assert "COMFYLINE_UPGRADE_COMMAND ended with status 1" in found["reason"]
    until(lambda: len(fleet.home.instances("healthy")) == 4, what="GPUs that take jobs again")
    assert fleet.workers() == before


def test_one_runs_at_a_time(fleet: RollingFleet) -> None:
    order(fleet, "restart", "--host", "c")
    second = fleet.home.command("rollout", "restart")
    assert second.returncode == 2
    assert "runs already" in second.stderr
    unknown: Fleet = fleet.home
    assert unknown.command("rollout", "status", "--json").returncode == 0
    assert fleet.home.command("rollout", "abort").returncode == 0
