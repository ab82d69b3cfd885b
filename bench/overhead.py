"""What Comfyline adds to a prompt: the bare ComfyUI protocol against the full path, on the same instance, in one run.

    python -m bench.overhead

Sequential: prompts that take no time, one after the other. Burst: 30 prompts of 0.2 s submitted at once; here the GPU
must not wait between jobs. Direct is what a careful client does: one websocket, POST, the end marker, GET /history.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import websocket

from bench.report import Report
from core.ledger import Ledger
from core.settings import Settings
from tests.fleet import ALL, Fleet

ROUNDS = 5
SEQUENTIAL = 30
BURST = 30
BURST_S = 0.2

_color = iter(range(1, 1 << 24))


def graph(seconds: float, prefix: str) -> dict[str, Any]:
    """A prompt that ComfyUI's cache cannot answer, with one small picture as its output."""
    steps = 4 if seconds else 1
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": next(_color)},
        },
        "2": {"class_type": "SimulatedWork", "inputs": {"image": ["1", 0], "seconds": seconds, "steps": steps}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    }


class Direct:
    """The bare protocol, as little as is correct."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._client_id = str(uuid.uuid4())
        self._socket = websocket.create_connection(
            f"{base_url.replace('http', 'ws')}/ws?clientId={self._client_id}", sockopt=((6, 1, 1),)
        )
        self._http = requests.Session()

    def post(self, seconds: float) -> str:
        prompt_id = str(uuid.uuid4())
        body = {"prompt": graph(seconds, f"{prompt_id}/x"), "client_id": self._client_id, "prompt_id": prompt_id}
        self._http.post(f"{self._base_url}/prompt", json=body).raise_for_status()
        return prompt_id

    def wait(self, prompt_id: str) -> None:
        while True:
            frame = self._socket.recv()
            if isinstance(frame, str):
                event = json.loads(frame)
                data = event["data"]
                if event["type"] == "executing" and data.get("prompt_id") == prompt_id and data["node"] is None:
                    break
        entry = self._http.get(f"{self._base_url}/history/{prompt_id}").json()[prompt_id]
        assert entry["status"]["status_str"] == "success", entry


class Full:
    """The whole road: HTTP, ledger, broker, worker, storage, and back to the waiting client."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._local = threading.local()

    def run(self, seconds: float) -> None:
        if not hasattr(self._local, "http"):
            self._local.http = requests.Session()
        body = {"input": {"workflow_json": graph(seconds, "x")}}
        answer = self._local.http.post(f"{self._base_url}/generate/sync", json=body, timeout=120)
        assert answer.json()["status"] == "completed", answer.text

    def follow(self) -> None:
        """Run one job of 0 s by Comfy API v2, until its event stream says that it has succeeded."""
        if not hasattr(self._local, "http"):
            self._local.http = requests.Session()
        follow_job(self._local.http, self._base_url)


def follow_job(session: requests.Session, base_url: str) -> tuple[int, int, int]:
    """Submit one job of 0 s by Comfy API v2 and follow its event stream to the end.

    Returns: when it began, when the answer to the POST was there, when the stream said `succeeded`; nanoseconds of
      CLOCK_MONOTONIC.
    """
    begun_ns = time.monotonic_ns()
    answer = session.post(f"{base_url}/api/v2/jobs", json={"workflow": graph(0, "x")}, timeout=60)
    accepted_ns = time.monotonic_ns()
    job_id = answer.json()["id"]
    with session.get(f"{base_url}/api/v2/jobs/{job_id}/events", stream=True, timeout=60) as stream:
        for line in stream.iter_lines(chunk_size=1):
            if line.startswith(b"data:") and json.loads(line[5:]).get("status") == "succeeded":
                return begun_ns, accepted_ns, time.monotonic_ns()
    raise AssertionError(f"{job_id} did not succeed")


def median_s(run: Callable[[], None], times: int) -> float:
    """The median duration of one call."""
    durations = []
    for _ in range(times):
        begun_s = time.perf_counter()
        run()
        durations.append(time.perf_counter() - begun_s)
    return statistics.median(durations)


def direct_burst_s(direct: Direct) -> float:
    """Seconds from the first POST to the end of the last prompt."""
    begun_s = time.perf_counter()
    for prompt_id in [direct.post(BURST_S) for _ in range(BURST)]:
        direct.wait(prompt_id)
    return time.perf_counter() - begun_s


def full_burst_s(full: Full) -> float:
    """Seconds from the first submit to the last answer, with a waiting client for each job."""
    clients = [threading.Thread(target=full.run, args=(BURST_S,)) for _ in range(BURST)]
    begun_s = time.perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return time.perf_counter() - begun_s


def instance_url(fleet: Fleet) -> str:
    """Where the fleet's only instance listens; only the ledger tells, clients are not to know."""
    ledger = Ledger(Settings(data_dir=fleet.data_dir))
    [instance] = ledger.instances.all()
    ledger.close()
    assert instance.url is not None
    return instance.url


def measure(fleet: Fleet) -> Report:
    """Direct and full in turns, so that a noisy machine is noisy for both."""
    direct, full = Direct(instance_url(fleet)), Full(fleet.base_url)
    report = Report("bench.overhead")
    median_s(lambda: direct.wait(direct.post(0)), 10)
    median_s(lambda: full.run(0), 20)
    sequential: list[tuple[float, float]] = []
    streams: list[float] = []
    bursts: list[tuple[float, float]] = []
    for number in range(ROUNDS):
        report.progress(f"round {number + 1} of {ROUNDS}")
        direct_s = median_s(lambda: direct.wait(direct.post(0)), SEQUENTIAL)
        sequential.append((direct_s, median_s(lambda: full.run(0), SEQUENTIAL)))
        streams.append(median_s(full.follow, SEQUENTIAL) - direct_s)
    for number in range(2):
        report.progress(f"burst {number + 1} of 2")
        bursts.append((direct_burst_s(direct), full_burst_s(full)))
    direct_ms = 1000 * statistics.median(pair[0] for pair in sequential)
    full_ms = 1000 * statistics.median(pair[1] for pair in sequential)
    added_ms = 1000 * statistics.median(pair[1] - pair[0] for pair in sequential)
    report.line("direct, 0 s prompt, median", f"{direct_ms:.1f} ms")
    report.line("full path, 0 s prompt, median", f"{full_ms:.1f} ms")
    report.line("added by the full path", f"{added_ms:.1f} ms", goal="at most 12 ms", met=added_ms <= 12)
    stream_ms = 1000 * statistics.median(streams)
    report.line("added until the event stream ends", f"{stream_ms:.1f} ms", goal="at most 14 ms", met=stream_ms <= 14)
    best = max(direct_s / full_s for direct_s, full_s in bursts)
    for direct_s, full_s in bursts:
        report.line(f"{BURST} x {BURST_S} s at once", f"direct {direct_s:.3f} s, full {full_s:.3f} s")
    report.line("throughput against direct", f"{best:.3f}", goal="at least 0.995", met=best >= 0.995)
    return report


def main() -> int:
    with (
        tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder,
        Fleet(Path(folder), simulated_gpus="1") as fleet,
    ):
        fleet.start(*(name for name in ALL if name != "gpu1")).ready(gpus=1)
        return measure(fleet).print()


if __name__ == "__main__":
    sys.exit(main())
