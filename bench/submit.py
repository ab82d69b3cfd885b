"""How many jobs a second the API takes in: a 25 KB workflow, PostgreSQL and Redis, everything on this machine.

    python -m bench.submit

Every submission is whole: parsed strictly, checked against a catalogue, recorded in PostgreSQL, published to Redis.
The load comes from one process with plain sockets, so that it takes as little as possible of the two cores it shares.
PostgreSQL and Redis are those of COMFYLINE_TEST_POSTGRES_URL and COMFYLINE_TEST_REDIS_URL; a database and a key
prefix of the bench's own are made there and removed afterwards.
"""

from __future__ import annotations

import itertools
import json
import selectors
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.report import Report
from core.ledger import Ledger
from core.settings import Settings
from tests.fleet import Fleet
from tests.services import find_postgres, redis_broker

GOAL = 500
SECONDS = 10.0
CLIENTS = 16
SIZE_BYTES = 25_000
#: Stands for the number of the submission.
NUMBER = "00000000"


def workflow() -> dict[str, Any]:
    """A chain of model-free nodes that every ComfyUI has, 25 kB as JSON; one node says something else each time."""
    graph: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}
    }
    while len(json.dumps(graph)) < SIZE_BYTES:
        last, node_id = str(len(graph)), str(len(graph) + 1)
        inputs = {"image": [last, 0], "upscale_method": "nearest-exact", "width": 64, "height": 64, "crop": "disabled"}
        graph[node_id] = {"class_type": "ImageScale", "inputs": inputs, "_meta": {"title": f"Scale number {node_id}"}}
    save = {"images": [str(len(graph)), 0], "filename_prefix": NUMBER}
    return graph | {"save": {"class_type": "SaveImage", "inputs": save}}


def request_to(port: int, key: str = "") -> bytes:
    """Return the whole request, with a key if there is one."""
    body = json.dumps({"workflow": workflow()}).encode()
    head = f"POST /api/v2/jobs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Client:
    """One connection that sends the same request again as soon as it has been answered."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._before, self._after = request.split(NUMBER.encode())
        self._buffer = b""

    def send(self, number: int) -> None:
        self.socket.sendall(b"%s%08d%s" % (self._before, number, self._after))

    def answered(self) -> bool:
        """Read what has come; True once the answer is whole."""
        self._buffer += self.socket.recv(65536)
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return False
        assert head.startswith(b"HTTP/1.1 201"), self._buffer[:400]
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) < length:
            return False
        self._buffer = b""
        return True


def accepted_per_second(port: int, request: bytes, seconds: float) -> float:
    """Keep every client busy for so long; returns whole answers per second."""
    selector = selectors.DefaultSelector()
    numbers = itertools.count()
    for _ in range(CLIENTS):
        client = Client(port, request)
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.send(next(numbers))
    accepted, begun_s = 0, time.perf_counter()
    while time.perf_counter() - begun_s < seconds:
        for key, _events in selector.select(timeout=1.0):
            if key.data.answered():
                accepted += 1
                key.data.send(next(numbers))
    return accepted / (time.perf_counter() - begun_s)


def measure(fleet: Fleet) -> Report:
    """Warm up, then measure the full path, and the same for a process that only answers."""
    report = Report("bench.submit")
    request = request_to(fleet.port)
    accepted_per_second(fleet.port, request, 2.0)
    rates = []
    for number in range(3):
        report.progress(f"round {number + 1} of 3")
        rates.append(accepted_per_second(fleet.port, request, SECONDS))
    report.line("size of the workflow", f"{len(json.dumps(workflow())) / 1000:.1f} kB, {len(workflow())} nodes")
    report.line("rounds", ", ".join(f"{rate:.0f}/s" for rate in rates))
    report.line("best round", f"{max(rates):.0f} submits/s", goal=f"at least {GOAL}/s", met=max(rates) >= GOAL)
    return report


def main() -> int:
    postgres = find_postgres()
    url = postgres.create()
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder, redis_broker() as broker:
        settings = {"database_url": url, "broker_url": broker.url, "broker_namespace": broker.namespace}
        with Fleet(Path(folder), simulated_gpus="1", api_processes="2", **settings) as fleet:
            # The GPU worker records which nodes there are, and then makes room: this is about taking jobs in.
            fleet.start("api", "gpu0").ready(gpus=1)
            fleet.stop("gpu0")
            status = measure(fleet).print()
            ledger = Ledger(Settings(data_dir=fleet.data_dir, database_url=url))
            print(f"  jobs in the ledger afterwards      {ledger.jobs.count('queued')}")
            ledger.close()
    postgres.drop(url)
    return status


if __name__ == "__main__":
    sys.exit(main())
