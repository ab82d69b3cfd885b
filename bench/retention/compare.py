"""What the ledger's work costs beside many jobs that have ended, and whether their removal is in anybody's way.

    python -m bench.retention.compare [--ended 7000000] [--beside 7000] [--seconds 10]

Two ledgers in a PostgreSQL of its own, which is removed afterwards: one with as many ended jobs as a fleet keeps in a
week at a million a day, and one with a thousandth of that. Both have 2,000 jobs that wait. The same is timed in both:
submissions, claims, pages of lists, counts by status. Then retention removes what is past its time from the large one
while others claim; a watcher looks every 2 ms whether a claim waits for a lock that the removal holds.

The large one takes some 20 GB of disk, and some ten minutes to make.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

from bench.claims_ledger import DONE, Case, gpu_name, new_job, put_fleet, put_jobs
from bench.report import Report
from bench.retention.ended_rows import EXPIRED, put_ended
from core.clock import now_ms
from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.records.job import STATUSES, TERMINAL
from tests.own_servers import OwnPostgres

ENDED, BESIDE, WAITING = 7_000_000, 7_000, 2_000
#: Jobs of one step of retention, as in tasks/reconciling/expiry.py.
STEP = 100
#: How much slower than beside a thousandth of the jobs: no more than a noisy machine makes it.
GOAL = 1.5
#: What is too short to be compared: a round trip and a plan.
FLOOR_MS = 2.0
LOOK_S = 0.002


class Cluster(OwnPostgres):
    """A PostgreSQL for this bench alone. It is careless while it is filled, and then as a production one is."""

    start_timeout_s = 120.0

    def __init__(self) -> None:
        super().__init__()
        self.is_careless = True

    def _command(self) -> list[str]:
        given = {"wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "8GB", "shared_buffers": "1GB"}
        given |= {"maintenance_work_mem": "512MB", "fsync": "off" if self.is_careless else "on"}
        given |= {"autovacuum": "off" if self.is_careless else "on"}
        flags = [text for name, value in given.items() for text in ("-c", f"{name}={value}")]
        return [*super()._command(), *flags]


@dataclass(kw_only=True)
class Locks:
    """How often a claim was seen to wait for the removal, of how many looks."""

    looks: int = 0
    waits: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)

    def watch(self, url: str) -> None:
        """Look until it is over."""
        blocked = """
            SELECT count(*) FROM pg_stat_activity waits
            WHERE waits.application_name = 'claims' AND EXISTS (
              SELECT 1 FROM unnest(pg_blocking_pids(waits.pid)) blocker(pid)
              JOIN pg_stat_activity holds USING (pid) WHERE holds.application_name = 'removal')"""
        with psycopg.connect(url, autocommit=True) as connection:
            while not self.is_over.wait(LOOK_S):
                [(waits,)] = connection.execute(blocked).fetchall()
                self.looks += 1
                self.waits += waits


def named(case: Case, name: str) -> Ledger:
    """A ledger whose connections are known by a name."""
    url = make_url(case.url).update_query_dict({"application_name": name})
    return Ledger(case.settings.model_copy(update={"database_url": url.render_as_string(hide_password=False)}))


def fill(cluster: Cluster, folder: Path, ended: int, report: Report) -> Case:
    """Make a ledger."""
    case = Case(url=cluster.new_database(), data_dir=str(folder), waiting=WAITING)
    began_s = time.monotonic()
    migrate(case.settings)
    put_ended(case.url, ended, say=report.progress)
    ledger = Ledger(case.settings)
    with ledger.database.engine.connect() as connection:
        put_jobs(connection, case)
        put_fleet(connection, case)
        connection.commit()
    ledger.close()
    with psycopg.connect(case.url, autocommit=True) as plain:
        plain.execute("VACUUM ANALYZE")
        [(size,)] = plain.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchall()
    report.line(f"ledger with {ended:,} ended jobs", f"{size}, made in {time.monotonic() - began_s:.0f} s")
    return case


def timed(acts: Sequence[Callable[[], float]], *, seconds: float, least: int = 20) -> list[list[float]]:
    """Do several things in turns, so that all have the same machine; returns how long each took, in ms, sorted.

    Parameters: acts - each returns how long it took.
    """
    times: list[list[float]] = [[] for _ in acts]
    ends_s = time.perf_counter() + seconds * len(acts)
    while time.perf_counter() < ends_s or len(times[0]) < least:
        for own, act in zip(times, acts, strict=True):
            own.append(act())
        if time.perf_counter() > ends_s + 60:
            break
    return [sorted(own) for own in times]


def watched(act: Callable[[], object]) -> Callable[[], float]:
    """Return what does something, and returns how many milliseconds it took."""

    def timed_act() -> float:
        began_s = time.perf_counter()
        # A statement that takes longer than two seconds is cut off.
        with contextlib.suppress(LedgerUnavailable):
            act()
        return (time.perf_counter() - began_s) * 1000

    return timed_act


def claim_one(ledger: Ledger, number: Iterator[int]) -> Callable[[], float]:
    """Return what claims a job, lets it fail and submits another one; it returns how long the claim took, in ms."""

    def act() -> float:
        gpu = next(number) % 8
        began_s = time.perf_counter()
        claim = ledger.claims.claim(gpu_name(gpu))
        took_ms = (time.perf_counter() - began_s) * 1000
        if claim is not None:
            ledger.claims.fail(claim, DONE)
            ledger.jobs.submit(new_job(gpu))
        return took_ms

    return act


def claims(ledger: Ledger, seconds: float) -> list[float]:
    """Claim for some seconds; the claims alone are timed."""
    act = claim_one(ledger, iter(range(10**9)))
    act()
    ends_s = time.perf_counter() + seconds
    times = []
    while time.perf_counter() < ends_s:
        times.append(act())
    return sorted(times)


def questions(ledger: Ledger) -> dict[str, Callable[[], object]]:
    """What is asked of a ledger, by name."""
    jobs = ledger.jobs
    known = jobs.page(limit=50)
    middle = jobs.page(until_ms=now_ms() - 3 * 24 * 3600 * 1000, limit=1) or known
    asked: dict[str, Callable[[], object]] = {
        "submit": lambda: jobs.submit(new_job(1)),
        "page: newest": lambda: jobs.page(limit=51),
        "page: newest, deep": lambda: jobs.page(limit=51, after=(middle[0].created_at_ms, middle[0].id)),
        "page: a tenant's": lambda: jobs.page(of="tenant3", limit=51),
        "page: status failed": lambda: jobs.page(statuses=["failed"], limit=51),
        "page: a tenant's, status failed": lambda: jobs.page(of="tenant3", statuses=["failed"], limit=51),
        "page: status running": lambda: jobs.page(statuses=["running"], limit=51),
        "page: status queued, running": lambda: jobs.page(statuses=["queued", "running"], limit=51),
        "page: a tenant's, status expired": lambda: jobs.page(of="tenant3", statuses=["expired"], limit=51),
        "page: status failed, canceled": lambda: jobs.page(statuses=["failed", "canceled"], limit=51),
        "page: a label": lambda: jobs.page(label="label7", limit=51),
        "page: an id's beginning": lambda: jobs.page(ids=(known[0].id[:8], known[0].id[:8] + "g"), limit=3),
        "a job by its id": lambda: jobs.get(known[0].id),
        "what tenants have": lambda: ledger.room.in_use(),
        "expired jobs": lambda: ledger.removal.expired_jobs(limit=STEP),
        "expired files": lambda: ledger.removal.expired_files(limit=STEP),
    }
    for status in STATUSES:
        if status not in TERMINAL:
            asked[f"count: {status}"] = lambda status=status: jobs.count(status)  # type: ignore[misc]
    return asked


def compare(report: Report, ledgers: Sequence[Ledger], seconds: float) -> None:
    """Time the same in both ledgers, in turns."""
    large, small = ledgers
    beside = questions(small)
    each_s = max(0.3, seconds / 20)
    for name, act in questions(large).items():
        report.progress(name)
        told(report, name, *timed([watched(act), watched(beside[name])], seconds=each_s))
    both = [claim_one(ledger, iter(range(10**9))) for ledger in (large, small)]
    told(report, "claim", *timed(both, seconds=seconds / 2))


def told(report: Report, name: str, large: list[float], small: list[float]) -> None:
    """Say how long something took in both."""
    medians = [times[len(times) // 2] for times in (large, small)]
    tails = [times[min(len(times) - 1, int(len(times) * 0.99))] for times in (large, small)]
    words = f"median {medians[0]:.2f} ms, p99 {tails[0]:.2f} ms; beside few {medians[1]:.2f} and {tails[1]:.2f} ms"
    met = medians[0] <= max(FLOOR_MS, GOAL * medians[1])
    report.line(name, words, goal=f"median at most {GOAL} times that, or {FLOOR_MS:g} ms", met=met)


def remove(case: Case, until: threading.Event, steps: list[tuple[int, float]]) -> None:
    """Remove what is past its time, without a rest, until told to end."""
    ledger = named(case, "removal")
    while not until.is_set():
        began_s = time.perf_counter()
        found = ledger.removal.expired_jobs(limit=STEP)
        removed = ledger.removal.remove_jobs(found) if found else 0
        steps.append((removed, (time.perf_counter() - began_s) * 1000))
        if not found:
            break
    ledger.close()


def removal(report: Report, case: Case, seconds: float) -> None:
    """Claim while retention removes."""
    ledger = named(case, "claims")
    calm = claims(ledger, seconds)
    locks, over, steps = Locks(), threading.Event(), []  # type: ignore[var-annotated]
    threads = [
        threading.Thread(target=locks.watch, args=(case.url,)),
        threading.Thread(target=remove, args=(case, over, steps)),
    ]
    for thread in threads:
        thread.start()
    busy = claims(ledger, seconds)
    over.set()
    locks.is_over.set()
    for thread in threads:
        thread.join()
    ledger.close()
    removed, times = sum(step[0] for step in steps), sorted(step[1] for step in steps)
    report.line("removed meanwhile", f"{removed:,} jobs in steps of {STEP}: median {times[len(times) // 2]:.1f} ms")
    told(report, "claim while jobs are removed", busy, calm)
    words = f"{locks.waits} of {locks.looks:,} looks found a claim that waited for the removal"
    report.line("locks", words, goal="none", met=locks.waits == 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ended", type=int, default=ENDED)
    parser.add_argument("--beside", type=int, default=BESIDE)
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    report = Report("bench.retention.compare")
    with contextlib.ExitStack() as stack:
        cluster = Cluster()
        stack.callback(cluster.remove)
        free = shutil.disk_usage(cluster.folder).free
        if free < asked.ended * 6_000:
            sys.exit(
                f"{free / 1e9:.0f} GB of disk are free, and {asked.ended * 6_000 / 1e9:.0f} are wanted: fewer jobs?"
            )
        cluster.start()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comfyline-bench-")))
        cases: list[Any] = []
        for ended in (asked.ended, asked.beside):
            own = folder / str(ended)
            own.mkdir()
            cases.append(fill(cluster, own, ended, report))
        cluster.stop()
        cluster.is_careless = False
        cluster.start()
        ledgers = [named(case, "bench") for case in cases]
        compare(report, ledgers, asked.seconds)
        for ledger in ledgers:
            ledger.close()
        report.progress(f"removing {EXPIRED:.0%} of {asked.ended:,} jobs")
        removal(report, cases[0], asked.seconds)
    return report.print()


if __name__ == "__main__":
    sys.exit(main())
