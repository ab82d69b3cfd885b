"""What becomes of 2,000 clients that come at the same moment, as they do when the API was restarted.

    python -m bench.herd

One API process, over SQLite and over PostgreSQL, no GPU at work. First 2,000 event streams of 2,000 waiting jobs are
opened at once, half of them with the Last-Event-ID of before: each must get its first event. Then 2,000 requests for
`POST /generate/sync` come at once: each job must be recorded, and nobody may be answered before its end. PostgreSQL and
Redis are found as the tests find them.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

import requests

from bench.report import Report
from bench.waiting import BenchFleet, Usage
from core.ledger import Ledger
from core.records.job_request import AcceptedJob, JobRequest
from core.settings import Settings
from tests.fleet import work
from tests.services import find_postgres, redis_broker
from tests.waiting import until

CLIENTS = 2000
GOAL_KB = 200
#: The official client gives a plain answer 30 s.
GOAL_S = 30.0
TIMEOUT_S = 90.0


class Herd:
    """Plain sockets that are all opened and written to before any of them is read."""

    def __init__(self, port: int, asked: list[bytes]) -> None:
        self._selector = selectors.DefaultSelector()
        self.sockets = []
        self.begun_s = time.perf_counter()
        for request in asked:
            client = socket.create_connection(("127.0.0.1", port), timeout=30)
            client.sendall(request)
            client.setblocking(False)
            self._selector.register(client, selectors.EVENT_READ, client)
            self.sockets.append(client)
        self._said: dict[socket.socket, bytes] = dict.fromkeys(self.sockets, b"")

    def first_events(self) -> tuple[list[float], list[bytes]]:
        """Wait for an event or an end of each; returns the seconds each event took, and what others were told."""
        times, refused, left = [], [], set(self.sockets)
        while left and time.perf_counter() - self.begun_s < TIMEOUT_S:
            for key, _events in self._selector.select(timeout=0.5):
                client: socket.socket = key.data
                chunk = client.recv(65536)
                self._said[client] += chunk
                is_served = self._said[client].startswith(b"HTTP/1.1 200") and b"event: status" in self._said[client]
                if client in left and (is_served or not chunk or not self._said[client].startswith(b"HTTP/1.1 200")):
                    left.discard(client)
                    if is_served:
                        times.append(time.perf_counter() - self.begun_s)
                    else:
                        refused.append(self._said[client][:40])
                        self._selector.unregister(client)
        return times, refused + [b"nothing"] * len(left)

    def answered(self) -> list[bytes]:
        """What those say that were answered by now."""
        return [key.data.recv(40, socket.MSG_PEEK) for key, _events in self._selector.select(timeout=0)]

    def close(self) -> None:
        for client in self.sockets:
            client.close()
        self._selector.close()


def submit_jobs(ledger: Ledger) -> list[str]:
    """Jobs that wait, put there without the API."""
    ids = [str(uuid.uuid4()) for _ in range(CLIENTS)]
    for job_id in ids:
        request = JobRequest(contract="v2", graph=work(0))
        ledger.jobs.submit(AcceptedJob(request=request, id=job_id, graph_text=json.dumps(work(0)), nodes_total=3))
    return ids


def _answers(fleet: BenchFleet) -> bool:
    try:
        return requests.get(f"{fleet.base_url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def streams(fleet: BenchFleet, ids: list[str], report: Report, name: str) -> None:
    """Every stream at once, right after a restart."""
    fleet.stop("api")
    fleet.start("api")
    until(lambda: _answers(fleet), what="the API")
    pid = fleet.api_worker_pid()
    before = Usage.of(pid)
    head = "GET /api/v2/jobs/{}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{}\r\n"
    resumed = "Last-Event-ID: 0\r\n"
    asked = [head.format(job_id, resumed if number % 2 else "").encode() for number, job_id in enumerate(ids)]
    herd = Herd(fleet.port, asked)
    times, refused = herd.first_events()
    after = Usage.of(pid)
    kb = (after.rss_kb - before.rss_kb) / CLIENTS
    herd.close()
    served = f"{len(times)} of {CLIENTS}" + (f", else {sorted(set(refused))}" if refused else "")
    report.line(f"{name}: streams served", served, goal="all", met=len(times) == CLIENTS)
    if times:
        spread = f"median {statistics.median(times):.1f} s, last {max(times):.1f} s"
        report.line(f"{name}: first event", spread, goal=f"at most {GOAL_S:.0f} s", met=max(times) <= GOAL_S)
    report.line(f"{name}: processor time per stream", f"{1000 * (after.cpu_s - before.cpu_s) / CLIENTS:.1f} ms")
    report.line(f"{name}: memory per stream", f"{kb:.0f} kB", goal=f"< {GOAL_KB} kB", met=kb < GOAL_KB)


def syncs(fleet: BenchFleet, ledger: Ledger, report: Report, name: str) -> None:
    """Every client of /generate/sync at once."""
    body = json.dumps({"input": {"workflow_json": work(0)}}).encode()
    head = "POST /generate/sync HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    before = ledger.jobs.count("queued")
    herd = Herd(fleet.port, [request] * CLIENTS)
    while time.perf_counter() - herd.begun_s < TIMEOUT_S:
        recorded = ledger.jobs.count("queued") - before
        if recorded + len(herd.answered()) >= CLIENTS:
            break
        time.sleep(0.2)
    seconds = time.perf_counter() - herd.begun_s
    answered = herd.answered()
    herd.close()
    told = f", else {sorted(set(answered))}" if answered else ""
    met = recorded == CLIENTS and not answered
    report.line(f"{name}: syncs recorded", f"{recorded} of {CLIENTS} in {seconds:.1f} s{told}", goal="all", met=met)


def run(report: Report, name: str, database_url: str, broker: dict[str, str]) -> None:
    """Both herds over one database."""
    report.progress(f"{CLIENTS} clients over {name}")
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder:
        settings = {"database_url": database_url} if database_url else {}
        fleet = BenchFleet(Path(folder), "gevent", **settings, **broker)
        with fleet:
            fleet.start("api", "gpu0").ready(gpus=1)
            fleet.stop("gpu0")
            ledger = Ledger(Settings(data_dir=fleet.data_dir, database_url=database_url))
            streams(fleet, submit_jobs(ledger), report, name)
            until(lambda: ledger.instances.known_catalogues(), what="a catalogue")
            syncs(fleet, ledger, report, name)
            ledger.close()


def main() -> int:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    report = Report("bench.herd")
    postgres = find_postgres()
    url = postgres.create()
    try:
        with redis_broker() as broker:
            named = {"broker_url": broker.url, "broker_namespace": broker.namespace}
            run(report, "SQLite", "", named)
            run(report, "PostgreSQL", url, named)
    finally:
        postgres.drop(url)
    return report.print()


if __name__ == "__main__":
    sys.exit(main())
