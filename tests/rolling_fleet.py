"""A fleet of several hosts on one machine under load, while parts of it are renewed or replaced."""

from __future__ import annotations

import base64
import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import or_, select

from core.ledger import Ledger
from core.ledger.database.tables import jobs
from core.settings import Settings
from tests.fleet import TERMINAL, Fleet, work
from tests.waiting import PATIENCE, until

HOME = "home"


class Load:
    """Jobs that keep coming until `finish`; an API that is away for a moment is asked again."""

    def __init__(self, fleet: Fleet, *, seconds: float, at_once: int) -> None:
        self._fleet = fleet
        self._seconds = seconds
        self._at_once = at_once
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: All that were accepted, in this order.
        self.job_ids: list[str] = []
        self._open: set[str] = set()
        self._thread.start()

    def end(self) -> None:
        """Let no more come."""
        self._ended.set()
        self._thread.join(30 * PATIENCE)

    def finish(self, *, timeout_s: float = 120.0) -> list[dict[str, Any]]:
        """End it, and return all jobs when all have ended."""
        self.end()
        over: dict[str, dict[str, Any]] = {}

        def all_over() -> bool:
            with contextlib.suppress(requests.RequestException, AssertionError):
                for job_id in self.job_ids:
                    if job_id not in over and (job := self._fleet.job(job_id))["status"] in TERMINAL:
                        over[job_id] = job
            return len(over) == len(self.job_ids)

        until(all_over, timeout_s=timeout_s, what="the ends of all jobs")
        return [over[job_id] for job_id in self.job_ids]

    def _run(self) -> None:
        # All this is work for a machine that has enough with the fleet.
        while not self._ended.wait(0.5):
            with contextlib.suppress(requests.RequestException, AssertionError):
                self._open = {each for each in self._open if self._fleet.job(each)["status"] not in TERMINAL}
                while len(self._open) < self._at_once:
                    job_id = self._fleet.submit(work(self._seconds, steps=4, seed=len(self.job_ids)))
                    self.job_ids.append(job_id)
                    self._open.add(job_id)


class RollingFleet:
    """A home host (broker, API, io worker, beat), and further hosts by their names."""

    def __init__(self, root: Path, **settings: str) -> None:
        self._root = root
        storage = root / "storage"
        storage.mkdir()
        self._settings = {
            "secret_key": base64.b64encode(os.urandom(32)).decode(),
            "storage_dir": str(storage),
            "database_url": f"sqlite:///{root / HOME / 'data' / 'ledger.db'}",
            "lease_renew_s": "0.5",
            "reconcile_s": "1",
            "simulator_args": "--simulate-test-nodes",
            "min_free_disk_bytes": "0",
            **settings,
        }
        self.hosts: dict[str, Fleet] = {}
        self._load: Load | None = None
        self.home = self.host(HOME)

    def host(self, name: str, **settings: str) -> Fleet:
        """A host, without any process yet."""
        (self._root / name).mkdir()
        mine = {"host": name, "simulated_gpus": "1", **settings}
        if name != HOME:
            mine["broker_url"] = f"redis+socket://{self.home.data_dir / 'broker.sock'}"
        found = self.hosts[name] = Fleet(self._root / name, **{**self._settings, **mine})
        return found

    def load(self, *, seconds: float = 2.0, at_once: int = 6) -> Load:
        """Have jobs come from now on, so many at once, each of so many seconds."""
        self._end_load()
        self._load = Load(self.home, seconds=seconds, at_once=at_once)
        return self._load

    def _end_load(self) -> None:
        # A test that failed has not ended its own.
        if self._load is not None:
            self._load.end()

    def close(self) -> None:
        """Leave nothing running."""
        self._end_load()
        for name in sorted(self.hosts, key=lambda name: name == HOME):
            self.hosts[name].__exit__()

    def lost(self) -> list[str]:
        """The jobs that lost an attempt, or time on a GPU. One that was given back before it began has lost neither."""
        has_lost = or_(jobs.c.lost_attempts > 0, jobs.c.lost_ms > 0)
        with self._ledger() as ledger, ledger.database.read() as connection:
            return list(connection.execute(select(jobs.c.id).where(has_lost)).scalars())

    def workers(self) -> Mapping[str, str]:
        """Which worker each GPU has, by its name."""
        with self._ledger() as ledger:
            return {gpu.name: gpu.worker for gpu in ledger.instances.all()}

    def _ledger(self) -> contextlib.closing[Ledger]:
        settings = Settings(data_dir=self.home.data_dir, database_url=self._settings["database_url"])
        return contextlib.closing(Ledger(settings, pool_size=1))


@contextlib.contextmanager
def rolling_fleet(root: Path, **settings: str) -> Iterator[RollingFleet]:
    """A fleet, of which nothing has been started."""
    fleet = RollingFleet(root, **settings)
    try:
        yield fleet
    finally:
        fleet.close()


def answers(fleet: Fleet) -> bool:
    """Whether the API answers."""
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{fleet.base_url}/health", timeout=5).ok
    return False


def settle(seconds: float) -> None:
    """Let jobs run for a while under what was changed."""
    time.sleep(seconds)
