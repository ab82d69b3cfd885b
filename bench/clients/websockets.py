"""What an idle websocket costs: 1,000 clients of ComfyUI's own protocol at one API process, each with an id of its own.

    python -m bench.clients.websockets

They connect, are greeted, and hear nothing. What they cost is measured on the API's worker process, first with nothing
going on, then while another client runs one prompt after the other, which moves the queue that all of them are told of.
"""

from __future__ import annotations

import resource
import selectors
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import requests
import websocket

from bench.report import Report
from bench.waiting import BenchFleet, Usage
from tests.fleet import work
from tests.ports import free_port
from tests.waiting import until

CLIENTS = 1000
WATCH_S = 30.0
GOAL_KB = 200
#: Of one core, with nothing going on.
GOAL_CPU_PERCENT = 20.0


class Clients:
    """Connections that read what they are sent, and answer pings, as all clients do."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._connections: list[websocket.WebSocket] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._is_over = False

    def connect(self, base: str, count: int) -> None:
        """Bring so many in, each greeted."""
        self._reader.start()
        for _ in range(count):
            connection = websocket.create_connection(f"{base.replace('http', 'ws', 1)}/ws?clientId={uuid.uuid4().hex}")
            connection.recv()
            self._connections.append(connection)
            assert connection.sock is not None
            self._selector.register(connection.sock, selectors.EVENT_READ, connection)

    def close(self) -> None:
        """Hang up."""
        self._is_over = True
        self._reader.join()
        for connection in self._connections:
            connection.close(timeout=0)

    def _read(self) -> None:
        while not self._is_over:
            for key, _events in self._selector.select(timeout=0.5):
                # One frame, which may be a ping: it is answered in there.
                key.data.recv_data_frame(control_frame=True)


def run_prompts(base: str, seconds: float) -> list[float]:
    """Run one prompt after the other for a while; returns what each took until its end was told, in seconds."""
    client = uuid.uuid4().hex
    took: list[float] = []
    connection = websocket.create_connection(f"{base.replace('http', 'ws', 1)}/ws?clientId={client}")
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        begun_s = time.monotonic()
        body = {"prompt": work(0, seed=len(took)), "client_id": client}
        requests.post(f"{base}/prompt", json=body, timeout=30).raise_for_status()
        while '"execution_success"' not in str(connection.recv()):
            pass
        took.append(time.monotonic() - begun_s)
        time.sleep(0.2)
    connection.close()
    return took


def cpu_percent(pid: int, begun: Usage, begun_s: float) -> float:
    """Return the share of one core that a process has used since."""
    return 100 * (Usage.of(pid).cpu_s - begun.cpu_s) / (time.monotonic() - begun_s)


def measure(report: Report, fleet: BenchFleet, base: str) -> None:
    """Connect, look while nothing goes on, look while prompts run."""
    pid = fleet.api_worker_pid()
    run_prompts(base, 3.0)
    before = Usage.of(pid)
    clients = Clients()
    clients.connect(base, CLIENTS)
    begun, begun_s = Usage.of(pid), time.monotonic()
    time.sleep(WATCH_S)
    idle, ended = cpu_percent(pid, begun, begun_s), Usage.of(pid)
    kb = (ended.rss_kb - before.rss_kb) / CLIENTS
    report.line("memory per websocket", f"{kb:.0f} kB", goal=f"< {GOAL_KB} kB", met=kb < GOAL_KB)
    threads = f"{before.threads} before, {ended.threads} with them"
    report.line("threads", threads, goal="no growth", met=ended.threads <= before.threads)
    goal = f"< {GOAL_CPU_PERCENT:.0f} %"
    report.line("CPU, nothing going on", f"{idle:.1f} % of one core", goal=goal, met=idle < GOAL_CPU_PERCENT)
    begun, begun_s = Usage.of(pid), time.monotonic()
    took = sorted(run_prompts(base, WATCH_S))
    report.line("CPU while prompts run", f"{cpu_percent(pid, begun, begun_s):.1f} % of one core")
    report.line("one of them, submitted to told", f"median {1000 * took[len(took) // 2]:.0f} ms of {len(took)}")
    clients.close()


def main() -> int:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    report, port = Report("bench.clients.websockets"), free_port()
    report.line("websockets", str(CLIENTS))
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder:
        fleet = BenchFleet(Path(folder), "gevent", comfyui_port=str(port))
        with fleet:
            fleet.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1, timeout_s=300)
            until(lambda: requests.get(f"{base}/prompt", timeout=10).ok, what="its port")
            measure(report, fleet, base)
    return report.print()


if __name__ == "__main__":
    sys.exit(main())
