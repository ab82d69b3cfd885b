"""What a waiting client costs: 1,000 of them on POST /generate/sync in one API process, by gunicorn's worker class.

    python -m bench.waiting

The GPU worker registers what its instance offers, runs a few jobs to warm the API up, and stops; then every client
waits. What they cost is measured on the API's worker process, while another client asks and submits. At the end the
GPU worker comes back, and each client must get its 200. The same run is made with gevent, as we serve, and with a
thread for each client.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import requests

from bench.report import Report
from core.ledger import Ledger
from core.settings import Settings
from tests.fleet import Fleet, work
from tests.waiting import until

CLIENTS = 1000
#: Clients that come at the same moment: this is about waiting, `bench.submit` is about coming in.
WAVE = 10
WATCH_S = 10.0
PROBES = 50
GOAL_KB = 200
#: A few threads more than clients, or the other client of the measurement would have to wait for the first answer.
GUNICORN_ARGUMENTS = {"gevent": "", "gthread": f"--worker-class gthread --threads {CLIENTS + 16}"}


class BenchFleet(Fleet):
    """A fleet whose API is served by the given worker class."""

    def __init__(self, root: Path, worker_class: str, **settings: str) -> None:
        super().__init__(root, simulated_gpus="1", simulator_args="--simulate-speed 0", **settings)
        self._gunicorn_arguments = GUNICORN_ARGUMENTS[worker_class]

    def environment(self) -> Mapping[str, str]:
        # gunicorn reads this after its configuration file, and before its command line.
        return {**super().environment(), "GUNICORN_CMD_ARGS": self._gunicorn_arguments}

    def api_worker_pid(self) -> int:
        """The process that serves: the only child of gunicorn's master."""
        master = self.processes["api"].pid
        [child] = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return int(child)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a process holds at one moment."""

    rss_kb: int
    threads: int
    cpu_s: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        pairs = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        status = {name: value.split() for name, value in pairs}
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # Fields 14 and 15 of proc(5), user and system time; the first two stand before the bracket.
        ticks = int(fields[11]) + int(fields[12])
        cpu_s = ticks / os.sysconf("SC_CLK_TCK")
        return cls(rss_kb=int(status["VmRSS"][0]), threads=int(status["Threads"][0]), cpu_s=cpu_s)


@dataclass(kw_only=True)
class Figures:
    """What was measured with one worker class."""

    kb_per_client: float
    threads: tuple[int, int]
    cpu_percent: float
    health_ms: list[float] = field(default_factory=list)
    submit_ms: list[float] = field(default_factory=list)
    served: int = 0
    served_s: float = 0.0


class Clients:
    """Plain sockets, each with one request out and no answer yet."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []

    def __len__(self) -> int:
        return len(self._sockets)

    def add(self) -> None:
        """One more client that waits."""
        body = json.dumps({"input": {"workflow_json": work(0, seed=len(self))}}).encode()
        head = f"POST /generate/sync HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
        client = socket.create_connection(("127.0.0.1", self._port))
        client.sendall(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        client.setblocking(False)
        self._selector.register(client, selectors.EVENT_READ, client)
        self._sockets.append(client)

    def answers(self) -> list[bytes]:
        """What has come so far, looked at and not taken."""
        return [key.data.recv(1000, socket.MSG_PEEK) for key, _events in self._selector.select(timeout=0)]

    def collect(self, *, timeout_s: float) -> int:
        """Wait for every answer; returns how many were a 200."""
        answers: dict[socket.socket, bytes] = dict.fromkeys(self._sockets, b"")
        open_ones, deadline_s = set(self._sockets), time.monotonic() + timeout_s
        while open_ones and time.monotonic() < deadline_s:
            for key, _events in self._selector.select(timeout=1.0):
                client: socket.socket = key.data
                chunk = client.recv(65536)
                answers[client] += chunk
                if not chunk:
                    self._selector.unregister(client)
                    open_ones.discard(client)
        return sum(b'"completed"' in answer and answer.startswith(b"HTTP/1.1 200") for answer in answers.values())

    def close(self) -> None:
        """Hang up."""
        for client in self._sockets:
            client.close()
        self._selector.close()


def timed_ms(http: requests.Session, url: str, body: object = None) -> float:
    """How long one request takes, in milliseconds: a POST if there is a body."""
    begun_s = time.perf_counter()
    answer = http.request("GET" if body is None else "POST", url, json=body, timeout=30)
    assert answer.ok, answer.text
    return 1000 * (time.perf_counter() - begun_s)


def warm_up(fleet: Fleet) -> None:
    """Every code path once: what is imported or cached at first use is not the clients'."""
    with requests.Session() as http:
        for seed in range(40):
            body = {"input": {"workflow_json": work(0, seed=10_000 + seed)}}
            assert http.post(f"{fleet.base_url}/generate/sync", json=body, timeout=60).status_code == 200


def let_wait(fleet: Fleet, clients: Clients) -> None:
    """Bring all clients in, and return when each of them waits."""
    ledger = Ledger(Settings(data_dir=fleet.data_dir))
    while len(clients) < CLIENTS:
        for _ in range(WAVE):
            clients.add()
        until(lambda: ledger.jobs.count("queued") == len(clients), timeout_s=60, what=f"{len(clients)} waiting clients")
    ledger.close()
    time.sleep(2.0)
    assert clients.answers() == [], clients.answers()[:3]


def probe(fleet: Fleet, figures: Figures) -> None:
    """Another client, while all the others wait."""
    health, jobs = f"{fleet.base_url}/health", f"{fleet.base_url}/api/v2/jobs"
    with requests.Session() as http:
        timed_ms(http, health)
        for seed in range(PROBES):
            figures.health_ms.append(timed_ms(http, health))
            figures.submit_ms.append(timed_ms(http, jobs, {"workflow": work(0, seed=20_000 + seed)}))
            time.sleep(0.05)


def measure(fleet: BenchFleet, clients: Clients) -> Figures:
    """Wait, look, probe, serve."""
    fleet.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1)
    warm_up(fleet)
    fleet.stop("gpu0")
    pid = fleet.api_worker_pid()
    before = Usage.of(pid)
    let_wait(fleet, clients)
    begun = Usage.of(pid)
    time.sleep(WATCH_S)
    ended = Usage.of(pid)
    figures = Figures(
        kb_per_client=(ended.rss_kb - before.rss_kb) / CLIENTS,
        threads=(before.threads, ended.threads),
        cpu_percent=100 * (ended.cpu_s - begun.cpu_s) / WATCH_S,
    )
    probe(fleet, figures)
    begun_s = time.perf_counter()
    fleet.start("gpu0")
    figures.served = clients.collect(timeout_s=300)
    figures.served_s = time.perf_counter() - begun_s
    return figures


def run(worker_class: str) -> Figures:
    """One whole measurement with a fleet of its own."""
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder:
        fleet = BenchFleet(Path(folder), worker_class)
        clients = Clients(fleet.port)
        with fleet:
            try:
                return measure(fleet, clients)
            finally:
                clients.close()


def add_lines(report: Report, name: str, figures: Figures, *, is_ours: bool) -> None:
    """The figures of one worker class; goals are for the one we serve with."""

    def line(what: str, value: str, goal: str, met: bool) -> None:
        report.line(f"{name}: {what}", value, goal=goal if is_ours else None, met=met or not is_ours)

    def spread(values: list[float]) -> str:
        return f"median {statistics.median(values):.1f} ms, worst {max(values):.1f} ms"

    before, after = figures.threads
    line("memory per client", f"{figures.kb_per_client:.0f} kB", f"< {GOAL_KB} kB", figures.kb_per_client < GOAL_KB)
    line("threads", f"{before} before, {after} waiting", "no growth", after <= before)
    report.line(f"{name}: CPU while they wait", f"{figures.cpu_percent:.1f} % of one core")
    report.line(f"{name}: GET /health meanwhile", spread(figures.health_ms))
    report.line(f"{name}: submit meanwhile", spread(figures.submit_ms))
    served = f"{figures.served} of {CLIENTS} within {figures.served_s:.1f} s"
    line("answered 200", served, "all", figures.served == CLIENTS)


def main() -> int:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    report = Report("bench.waiting")
    report.line("clients on POST /generate/sync", str(CLIENTS))
    for worker_class in GUNICORN_ARGUMENTS:
        report.progress(f"{CLIENTS} clients with {worker_class}")
        add_lines(report, worker_class, run(worker_class), is_ours=worker_class == "gevent")
    return report.print()


if __name__ == "__main__":
    sys.exit(main())
