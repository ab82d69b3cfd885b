"""Where the time of one job goes: each hop from the client's POST to `succeeded` in its event stream.

    python -m bench.trace

Jobs of 0 s, one after the other, on one simulated GPU, SQLite and the embedded broker. Each process stamps what it does
(`bench.stamps`); the table has the medians. A hop begins so long after the client's first byte, and takes so long.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import requests

from bench.overhead import follow_job
from bench.report import Report
from bench.stamps import FILE, write_hook
from tests.fleet import ALL, ROOT, Fleet

JOBS = 200
WARM_UP = 20
#: Between two jobs, so that what one leaves to be done is not taken for a part of the next one.
PAUSE_S = 0.05
WIDTH = 48


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One thing that a process did for a job, in milliseconds since the client began."""

    process: str
    name: str
    #: Which of the hops of this name it is: some things happen twice.
    number: int
    begins_ms: float
    took_ms: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """When a client began, had its answer, and heard of the end: nanoseconds of CLOCK_MONOTONIC."""

    begun_ns: int
    accepted_ns: int
    ended_ns: int


class Stamps:
    """The stamps of all processes, by job."""

    def __init__(self, lines: Iterable[str], main_pids: dict[int, str]) -> None:
        """Parameters:
        main_pids: the fleet's processes by their ids; a fork of one counts as the same, but for a GPU worker's.
        """
        self._stamps: list[tuple[int, int, str, str]] = []
        self._names = dict(main_pids)
        for line in lines:
            at_ns, pid, sign, text = line.strip().split(" ", 3)
            if sign != "=":
                self._stamps.append((int(at_ns), int(pid), sign, text))
            elif (parent := main_pids.get(int(text))) is not None:
                self._names.setdefault(int(pid), "pool" if parent.startswith("gpu") else parent)
        self._stamps.sort()

    def hops(self, job: Job, until_ns: int) -> list[Hop]:
        """What was done from the job's begin to this moment."""
        opened: dict[tuple[int, str], list[int]] = defaultdict(list)
        found: dict[tuple[str, str], int] = defaultdict(int)
        hops = []
        for at_ns, pid, sign, name in self._stamps:
            if not job.begun_ns <= at_ns < until_ns:
                continue
            if sign == "+":
                opened[pid, name].append(at_ns)
            elif opened[pid, name]:
                begun_ns = opened[pid, name].pop()
                process = self._names.get(pid, "?")
                found[process, name] += 1
                hops.append(
                    Hop(
                        process=process,
                        name=name,
                        number=found[process, name],
                        begins_ms=(begun_ns - job.begun_ns) / 1e6,
                        took_ms=(at_ns - begun_ns) / 1e6,
                    )
                )
        return hops


def medians(jobs: list[list[Hop]]) -> list[Hop]:
    """The hops that most jobs had, each with its medians, in the order of their begin."""
    by_kind: dict[tuple[str, str, int], list[Hop]] = defaultdict(list)
    for hops in jobs:
        for hop in hops:
            by_kind[hop.process, hop.name, hop.number].append(hop)
    usual = [
        Hop(
            process=process,
            name=name,
            number=number,
            begins_ms=statistics.median(hop.begins_ms for hop in found),
            took_ms=statistics.median(hop.took_ms for hop in found),
        )
        for (process, name, number), found in by_kind.items()
        if len(found) > len(jobs) / 2
    ]
    return sorted(usual, key=lambda hop: hop.begins_ms)


def table(hops: list[Hop], total_ms: float) -> list[str]:
    """A line for each hop, with a picture of when it was."""
    scale = WIDTH / total_ms
    lines = [f"{'at ms':>7} {'took':>6}  {'process':<8} {'hop':<26}"]
    for hop in hops:
        begin, length = round(hop.begins_ms * scale), max(1, round(hop.took_ms * scale))
        bar = f"{'':{begin}}{'#' * length}"[: WIDTH + 12]
        lines.append(f"{hop.begins_ms:7.1f} {hop.took_ms:6.2f}  {hop.process:<8} {hop.name:<26} |{bar}")
    return lines


def measure(fleet: Fleet, stamps: Path) -> Report:
    """Run the jobs, then read what the processes have stamped."""
    session = requests.Session()
    for _ in range(WARM_UP):
        follow_job(session, fleet.base_url)
    jobs = []
    for _ in range(JOBS):
        time.sleep(PAUSE_S)
        begun_ns, accepted_ns, ended_ns = follow_job(session, fleet.base_url)
        jobs.append(Job(begun_ns=begun_ns, accepted_ns=accepted_ns, ended_ns=ended_ns))
    time.sleep(PAUSE_S)
    pids = {process.pid: name for name, process in fleet.processes.items()}
    with stamps.open(encoding="utf-8") as file:
        found = Stamps(file, pids)
    ends = [job.begun_ns for job in jobs[1:]] + [time.monotonic_ns()]
    hops = medians([found.hops(job, end) for job, end in zip(jobs, ends, strict=True)])
    accepted_ms = statistics.median((job.accepted_ns - job.begun_ns) / 1e6 for job in jobs)
    ended_ms = statistics.median((job.ended_ns - job.begun_ns) / 1e6 for job in jobs)
    report = Report("bench.trace")
    report.line("the client has its answer after", f"{accepted_ms:.1f} ms")
    report.line("its stream says `succeeded` after", f"{ended_ms:.1f} ms")
    print("\n".join(table(hops, ended_ms)))
    return report


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder:
        stamps = Path(folder) / "stamps"
        with Fleet(Path(folder), simulated_gpus="1") as fleet:
            fleet.with_variables(PYTHONPATH=write_hook(Path(folder) / "hook", ROOT), **{FILE: str(stamps)})
            fleet.start(*(name for name in ALL if name != "gpu1")).ready(gpus=1)
            return measure(fleet, stamps).print()


if __name__ == "__main__":
    sys.exit(main())
