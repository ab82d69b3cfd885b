"""What a large batch costs while it runs: 10,000 jobs, 300 GPUs, PostgreSQL and Redis, everything on this machine.

    python -m bench.scheduling.large_batch

The GPUs are light ones: rows and leases of the ledger that one process claims for, renews and ends, as GPU workers do,
with no ComfyUI behind them. Meanwhile one client submits single jobs and asks for batches, their counts and their jobs.
How much the database grows is measured for jobs that ran, each with one output.
"""

from __future__ import annotations

import contextlib
import heapq
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psycopg
import requests

from bench.report import Report
from bench.waiting import timed_ms
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.settings import Settings
from tests.fleet import Fleet, work
from tests.integration.api_fixtures import Worker
from tests.services import find_postgres, redis_broker
from tests.waiting import until

JOBS = 10_000
GPUS = 300
#: How long a job runs on a light GPU: 20 jobs a second end.
RUN_S = 15.0
WATCH_S = 60.0
GOAL_MS = 50.0
GOAL_BYTES = 2000
BATCHES = "/api/v2/batches"
#: A little picture, so that every job has an output.
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(100)
RENEW_S, BEAT_S = 5.0, 5.0


def run_light_gpus(settings: Settings, catalogue: dict[str, Any], count: int, run_s: float, stop: Event) -> None:
    """Claim for so many GPUs, and end each job after a while, until told to stop."""
    ledger = Ledger(settings)
    worker = Worker(ledger, settings.outputs_dir)
    names = [f"light{number}@bench" for number in range(count)]
    for name in names:
        worker.come_up(name, catalogue)
    held: dict[str, Claim] = {}
    #: When to look again: at a GPU that is free, or at the job that ends on it.
    due = [(time.monotonic() + run_s * number / count, name) for number, name in enumerate(names)]
    renew_s = beat_s = time.monotonic()
    while not stop.is_set():
        now_s = time.monotonic()
        if now_s - renew_s > RENEW_S:
            renew_s = now_s
            ledger.claims.renew(list(held.values()))
        if now_s - beat_s > BEAT_S:
            beat_s = now_s
            worker.beat()
        if due[0][0] > now_s:
            time.sleep(min(0.05, due[0][0] - now_s))
            continue
        _, name = heapq.heappop(due)
        if name in held:
            worker.finish(held.pop(name), PICTURE)
        claim = ledger.claims.claim(name)
        if claim is not None:
            held[name] = claim
        heapq.heappush(due, (now_s + (run_s if claim else 0.5), name))
    ledger.close()


@contextlib.contextmanager
def light_gpus(settings: Settings, catalogue: dict[str, Any], count: int, run_s: float) -> Any:
    """So many GPUs in a process beside."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=run_light_gpus, args=(settings, catalogue, count, run_s, stop))
    process.start()
    try:
        yield
    finally:
        stop.set()
        process.join(timeout=30)
        if process.is_alive():
            process.kill()


def body_of(jobs: int) -> dict[str, Any]:
    """A batch of so many seeds."""
    return {"workflow": work(0, seed=0), "over": {"1.color": f"1..{jobs}"}, "label": "bench"}


def p95(times_ms: list[float]) -> float:
    """The 95th percentile of some durations."""
    return sorted(times_ms)[int(len(times_ms) * 0.95)]


def watch(fleet: Fleet, batch_id: str, seconds: float) -> dict[str, list[float]]:
    """Ask for everything in turn for so long; returns how long each took, in milliseconds."""
    one = f"{BATCHES}/{batch_id}"
    asked: dict[str, tuple[str, Any]] = {
        "submission": ("/api/v2/jobs", {"workflow": work(0, seed=0)}),
        "list of batches": (BATCHES, None),
        "counts of the batch": (one, None),
        "first page of its jobs": (f"{one}/jobs", None),
        "its jobs that wait": (f"{one}/jobs?status=queued", None),
        "list of jobs": ("/api/v2/jobs", None),
    }
    times: dict[str, list[float]] = {name: [] for name in asked}
    ends_s = time.monotonic() + seconds
    with requests.Session() as http:
        while time.monotonic() < ends_s:
            for name, (path, body) in asked.items():
                times[name].append(timed_ms(http, fleet.base_url + path, body))
            time.sleep(0.2)
    return times


def database_bytes(url: str) -> int:
    """How much a database takes on disk, after the rows that nobody sees any more were made room for."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM")
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        assert row is not None
        return int(row[0])


def submit(fleet: Fleet, jobs: int) -> tuple[str, float]:
    """Submit a batch; returns its id and how long that took, in seconds."""
    begun_s = time.perf_counter()
    answer = requests.post(fleet.base_url + BATCHES, json=body_of(jobs), timeout=60)
    took_s = time.perf_counter() - begun_s
    assert answer.status_code == 201, answer.text[:500]
    return str(answer.json()["id"]), took_s


def counts(fleet: Fleet, batch_id: str) -> dict[str, int]:
    """How many jobs of a batch are in which status."""
    found: dict[str, int] = requests.get(f"{fleet.base_url}{BATCHES}/{batch_id}", timeout=30).json()["counts"]
    return found


def measure_growth(report: Report, fleet: Fleet, settings: Settings, catalogue: dict[str, Any]) -> None:
    """Two batches that run to their ends on quick GPUs, one after the other."""
    jobs = 2000
    before = database_bytes(settings.database_url)
    recorded = run_through(fleet, settings, catalogue, jobs)
    once = database_bytes(settings.database_url)
    run_through(fleet, settings, catalogue, jobs)
    twice = database_bytes(settings.database_url)
    report.line("grows for each that was recorded", f"{(recorded - before) / jobs:.0f} bytes")
    grown = (once - before) / jobs
    report.line("and when it has run", f"{grown:.0f} bytes", goal=f"under {GOAL_BYTES}", met=grown < GOAL_BYTES)
    report.line("of a second batch, in room left over", f"{(twice - once) / jobs:.0f} bytes")


def run_through(fleet: Fleet, settings: Settings, catalogue: dict[str, Any], jobs: int) -> int:
    """Run a batch, until what it used is folded into days; returns how large the database was before it ran."""
    batch_id, _ = submit(fleet, jobs)
    recorded = database_bytes(settings.database_url)
    with light_gpus(settings, catalogue, 8, 0.0):
        until(lambda: counts(fleet, batch_id)["succeeded"] == jobs, timeout_s=900, what="the end of the batch")
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        entries = "SELECT count(*) FROM usage_entries"
        until(lambda: connection.execute(entries).fetchone() == (0,), timeout_s=60, what="sums of what was used")
    return recorded


def measure(fleet: Fleet, settings: Settings) -> Report:
    """All of it."""
    report = Report("bench.scheduling.large_batch")
    fleet.start("api", "gpu0", "io", "beat").ready(gpus=1)
    fleet.stop("gpu0")
    ledger = Ledger(settings)
    catalogue = ledger.instances.catalogue(ledger.instances.known_catalogues()[0])
    ledger.close()
    report.progress("growth of the database")
    measure_growth(report, fleet, settings, catalogue)
    report.progress(f"{JOBS} jobs on {GPUS} GPUs")
    batch_id, took_s = submit(fleet, JOBS)
    report.line(f"submission of {JOBS} jobs", f"{took_s:.1f} s")
    with light_gpus(settings, catalogue, GPUS, RUN_S):
        until(lambda: counts(fleet, batch_id)["running"] > 0.9 * GPUS, timeout_s=120, what="a busy fleet")
        begun = counts(fleet, batch_id)["succeeded"]
        times = watch(fleet, batch_id, WATCH_S)
        ended = counts(fleet, batch_id)["succeeded"] - begun
    report.line("jobs that ended meanwhile", f"{ended / WATCH_S:.1f} a second")
    for name, found in times.items():
        value = f"{statistics.median(found):.0f} ms median, {p95(found):.0f} ms p95 of {len(found)}"
        report.line(name, value, goal=f"p95 under {GOAL_MS:.0f} ms", met=p95(found) < GOAL_MS)
    return report


def main() -> int:
    postgres = find_postgres()
    url = postgres.create()
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder, redis_broker() as broker:
        names: dict[str, Any] = {"database_url": url, "broker_url": broker.url, "broker_namespace": broker.namespace}
        fleet = Fleet(Path(folder), simulated_gpus="1", api_processes="2", **names)
        settings = Settings(data_dir=fleet.data_dir, **names)
        with fleet:
            status = measure(fleet, settings).print()
    postgres.drop(url)
    return status


if __name__ == "__main__":
    sys.exit(main())
