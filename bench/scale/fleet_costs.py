"""A fleet of so many GPUs, measured: while nothing is to be done, with jobs that come one by one, and full."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import requests

from bench.scale.light_workers import light_workers
from bench.scale.meters import Meters, Reading, read_postgres, read_rabbit, read_redis
from tasks.instance.probe import InstanceInfo, read_info
from tests.fleet import ROOT, Fleet
from tests.own_servers import OwnPostgres, OwnRabbit, OwnRedis

GRAPH = json.loads((ROOT / "workflows" / "demo.json").read_text())
MOST_IN_A_BATCH = 10_000
#: What happened last is counted within this time.
SETTLE_S = 3.0
#: How often it is looked whether all jobs have ended, which costs the ledger a transaction.
LOOK_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a fleet is measured with."""

    gpus: int
    broker: str
    #: How long nothing happens, in seconds.
    idle_s: float
    #: Jobs that come one by one, and how much time is between them.
    single: int
    pause_s: float
    #: Jobs that come at once, and how long each runs.
    jobs: int
    run_s: float


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What it cost, by what was counted."""

    work: Work
    #: For a second of the fleet in which nothing happens.
    idle: Reading
    #: For a job that finds an idle fleet, and for one of many: beside what the same time without a job would cost.
    single: Reading
    full: Reading
    #: For a job of many, with all that runs beside it.
    whole: Reading
    connections: int
    took_s: float
    #: Statements that were executed most often for each job of many, where the server tells.
    statements: list[tuple[str, float, float]]


@dataclass(kw_only=True)
class Measured:
    """A running fleet of light GPUs."""

    fleet: Fleet
    database_url: str
    meters: Meters
    work: Work

    def ended(self) -> int:
        """How many jobs have ended well, none has ended otherwise."""
        query = "SELECT status, count(*) FROM jobs WHERE status NOT IN ('queued', 'running', 'delivering') GROUP BY 1"
        with psycopg.connect(self.database_url) as connection:
            counts: dict[str, int] = dict(connection.execute(query).fetchall())
        assert set(counts) <= {"succeeded"}, counts
        return counts.get("succeeded", 0)

    def spend(self, act: Callable[[], None]) -> tuple[Reading, float]:
        """Do something; returns what it cost, and how long it took."""
        begun_s, before = time.monotonic(), self.meters.read()
        act()
        time.sleep(SETTLE_S)
        after = self.meters.read()
        return {name: after[name] - before[name] for name in after}, time.monotonic() - begun_s

    def wait(self, jobs: int) -> None:
        """Wait until so many more have ended."""
        limit_s = 60 + 20 * jobs * self.work.run_s / self.work.gpus
        give_up_s = time.monotonic() + limit_s
        while (ended := self.ended()) < jobs:
            assert time.monotonic() < give_up_s, f"{ended} of {jobs} jobs ended within {limit_s:.0f} s"
            time.sleep(LOOK_S)


def costs_of(work: Work, folder: Path) -> Costs:
    """Measure one fleet, from its servers on."""
    with running(work, folder) as measured:
        idle, idle_s = measured.spend(lambda: time.sleep(work.idle_s))
        a_second = {name: amount / idle_s for name, amount in idle.items()}
        seeds = itertools.count(1)

        def come_one_by_one() -> None:
            for _ in range(work.single):
                measured.fleet.submit(seeded(next(seeds)))
                time.sleep(work.pause_s)
            measured.wait(work.single)

        single, single_s = measured.spend(come_one_by_one)
        reset_statements(measured.database_url)

        def come_at_once() -> None:
            for begin in range(0, work.jobs, MOST_IN_A_BATCH):
                submit_batch(measured.fleet, begin, min(MOST_IN_A_BATCH, work.jobs - begin))
            measured.wait(work.single + work.jobs)

        full, full_s = measured.spend(come_at_once)
        return Costs(
            work=work,
            idle=a_second,
            single=beside(single, a_second, single_s, work.single),
            full=beside(full, a_second, full_s, work.jobs),
            whole={name: amount / work.jobs for name, amount in full.items()},
            connections=connections(measured.database_url),
            took_s=full_s,
            statements=statements(measured.database_url, work.jobs),
        )


def beside(spent: Reading, a_second: Reading, took_s: float, jobs: int) -> Reading:
    """What one job cost beside what the time would have cost without it."""
    return {name: (amount - a_second[name] * took_s) / jobs for name, amount in spent.items()}


@contextlib.contextmanager
def running(work: Work, folder: Path) -> Iterator[Measured]:
    """Servers, a fleet and its light GPUs."""
    postgres = OwnPostgres(
        max_connections="3000", shared_buffers="256MB", shared_preload_libraries="pg_stat_statements"
    )
    broker = OwnRabbit(folder / "rabbit") if work.broker == "rabbitmq" else OwnRedis(folder / "redis")
    try:
        postgres.start()
        broker.start()
        url = postgres.new_database()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
        names: dict[str, Any] = {"database_url": url, "broker_url": broker.url, "host": "bench"}
        fleet = Fleet(folder, simulated_gpus="1", api_processes="2", **names)
        with fleet:
            info = learned_info(fleet)
            settings = {"data_dir": fleet.data_dir, **names}
            with light_workers(settings, work.gpus, info, work.run_s) as workers:
                processes = {
                    "ledger": [postgres.pid],
                    "broker": [broker.pid],
                    "api, io, beat": [process.pid for process in fleet.processes.values()],
                    "GPU workers": workers,
                }
                of_broker = read_rabbit if isinstance(broker, OwnRabbit) else read_redis
                readers = [lambda: read_postgres(url), lambda: of_broker(broker)]  # type: ignore[arg-type]
                meters = Meters(readers, processes)
                time.sleep(SETTLE_S)
                yield Measured(fleet=fleet, database_url=url, meters=meters, work=work)
    finally:
        broker.stop()
        postgres.remove()


def learned_info(fleet: Fleet) -> InstanceInfo:
    """Start a fleet, and return what its simulator says of itself, which is stopped then."""
    fleet.start("api", "gpu0", "io", "beat").ready(gpus=1, timeout_s=120)

    info = read_info(instance_url(fleet))
    fleet.stop("gpu0")
    return info


def instance_url(fleet: Fleet) -> str:
    """Where the simulator of a fleet's only GPU is."""
    with psycopg.connect(fleet.environment()["COMFYLINE_DATABASE_URL"]) as connection:
        found = connection.execute("SELECT url FROM instances WHERE state = 'healthy'").fetchone()
    assert found is not None
    return str(found[0])


def seeded(seed: int) -> dict[str, Any]:
    """The graph, with a seed of its own."""
    graph: dict[str, Any] = copy.deepcopy(GRAPH)
    graph["3"]["inputs"]["seed"] = seed
    return graph


def submit_batch(fleet: Fleet, begin: int, jobs: int) -> None:
    """Submit so many jobs at once."""
    body = {"workflow": GRAPH, "over": {"3.seed": f"{begin + 1_000_000}..{begin + 999_999 + jobs}"}}
    answer = requests.post(f"{fleet.base_url}/api/v2/batches", json=body, timeout=120)
    assert answer.status_code == 201, answer.text[:500]


def connections(url: str) -> int:
    """How many connections the ledger has."""
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(found.fetchall()[0][0])


def reset_statements(url: str) -> None:
    """Count statements from now on."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_statements_reset()")


def statements(url: str, jobs: int) -> list[tuple[str, float, float]]:
    """What took the ledger longest: the statement, how often for a job, and how many milliseconds for a job."""
    query = """
        SELECT query, calls, total_exec_time, rows FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 40
    """
    with psycopg.connect(url) as connection:
        rows = connection.execute(query).fetchall()
    return [(" ".join(str(text).split()), calls / jobs, total_ms / jobs) for text, calls, total_ms, _ in rows]
