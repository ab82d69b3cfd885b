"""A whole loop: hosts with simulated GPUs are started and stopped by what the fleet says, while jobs come.

A host that may go is killed, all of it at once: whatever still lay on it would be lost.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fleet import Fleet, work
from tests.waiting import until

pytestmark = pytest.mark.slow

MOST = 2
IDLE_S = 10
KEY = base64.b64encode(os.urandom(32)).decode()


class Scaler:
    """Starts and stops hosts as the fleet wants; each is a data directory with one GPU and an io worker."""

    def __init__(self, fleet: Fleet, root: Path, settings: dict[str, str]) -> None:
        self._fleet = fleet
        self._root = root
        self._settings = settings
        self.hosts: dict[str, Fleet] = {}
        self.started = 0
        self.stopped: list[str] = []
        self.wanted: list[int] = []

    def step(self) -> dict[str, Any]:
        """Look once, and do what is wanted; returns the pool."""
        told = self._ask("POST", "/scale-in")
        # The number of the same moment: an older one may still want a host that leaves now.
        pool: dict[str, Any] = told["pool"]
        self.wanted.append(pool["gpus_wanted"])
        # What was started and has not registered yet is counted here, as a cloud counts its machines.
        leaving = {host["host"] for host in told["hosts"]}
        staying = [name for name in self.hosts if name not in leaving]
        for _ in range(pool["gpus_wanted"] - len(staying)):
            self.start()
        for host in told["hosts"]:
            if host["may_go"] and host["host"] in self.hosts:
                self._stop(host["host"])
        return pool

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        answer = requests.request(method, f"{self._fleet.base_url}/api/v2/autoscale/-{path}", timeout=30)
        assert answer.ok, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def start(self) -> None:
        self.started += 1
        name = f"host{self.started}"
        folder = self._root / name
        folder.mkdir()
        host = Fleet(folder, **self._settings, host=name, simulated_gpus="1")
        self.hosts[name] = host.start("gpu0", "io")

    def _stop(self, name: str) -> None:
        host = self.hosts.pop(name)
        for process in list(host.processes):
            host.kill(process)
        self.stopped.append(name)

    def close(self) -> None:
        for host in self.hosts.values():
            host.__exit__()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[Fleet, Scaler]]:
    home = tmp_path / "home"
    home.mkdir()
    storage = tmp_path / "storage"
    storage.mkdir()
    shared = {
        "secret_key": KEY,
        "storage_dir": str(storage),
        "database_url": f"sqlite:///{home / 'data' / 'ledger.db'}",
        "lease_renew_s": "1",
        "reconcile_s": "1",
        "autoscale_pools": f"-=0-{MOST}",
        "autoscale_idle_s": str(IDLE_S),
        "autoscale_target_wait_s": "5",
        "simulator_args": "--simulate-test-nodes --simulate-speed 0",
    }
    with Fleet(home, **shared, host="home") as found:
        found.start("broker", "api", "io", "beat")
        until(lambda: _answers(found), timeout_s=60, what="the API")
        scaler = Scaler(found, tmp_path, {**shared, "broker_url": f"redis+socket://{found.data_dir / 'broker.sock'}"})
        try:
            yield found, scaler
        finally:
            scaler.close()


def _answers(fleet: Fleet) -> bool:
    try:
        return requests.get(f"{fleet.base_url}/health", timeout=5).ok
    except requests.RequestException:
        return False


@pytest.mark.timeout(420)
def test_hosts_come_and_go_and_no_job_is_lost(fleet: tuple[Fleet, Scaler]) -> None:
    home, scaler = fleet
    # A fleet that never had a GPU knows no nodes, and can check no graph. The first is given back like any other.
    scaler.start()
    home.ready(gpus=1, timeout_s=120)
    until(lambda: scaler.step() and not scaler.hosts, timeout_s=120, what="a fleet without any GPU")
    assert scaler.wanted[-1] == 0
    scaler.wanted.clear()
    job_ids = [home.submit(work(1.5, seed=seed)) for seed in range(8)]

    ends_s = time.monotonic() + 300
    killed = False
    while True:
        assert time.monotonic() < ends_s, (scaler.wanted, scaler.stopped, [home.job(each) for each in job_ids])
        try:
            pool = scaler.step()
            done = [home.job(job_id)["status"] == "succeeded" for job_id in job_ids]
        except requests.ConnectionError:
            # It was killed, and comes back.
            time.sleep(0.5)
            continue
        if any(done) and len(job_ids) < 12:
            # More come while hosts are there already.
            job_ids += [home.submit(work(1.0, seed=20 + number)) for number in range(4)]
        if all(done) and len(scaler.stopped) > 1 and not killed:
            killed = True
            home.kill("api")
            home.start("api")
            continue
        if all(done) and not scaler.hosts and pool["gpus_here"] == 0 and killed:
            break
        time.sleep(1.0)

    jobs = [home.job(job_id) for job_id in job_ids]
    assert [job["status"] for job in jobs] == ["succeeded"] * 12
    assert {job["attempt"] for job in jobs} == {1}, "no host was stopped under its job"
    assert all(home.picture(job) for job in jobs)
    assert max(scaler.wanted) == MOST
    assert scaler.wanted[-1] == 0
    # On a slow machine one may be given back between two jobs, and be wanted again.
    assert scaler.started == len(scaler.stopped) >= 1 + MOST
