"""Graphs and helpers for tests that run prompts on a ComfyUI server, simulated or real."""

from __future__ import annotations

import os
import random
import threading
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import requests

from comfy.client.outputs import ReportedOutput
from comfy.client.timeouts import Pace
from comfy.prompts.session import ComfySession
from core.records.progress import Progress
from tests.simulator_process import SimulatorProcess, simulator

Graph = dict[str, dict[str, Any]]

#: As patient as in production where it matters to a test, and quicker where a test would only wait.
QUICK = Pace(heartbeat_s=0.6, poll_last_s=0.3, refused_s=0.4, interrupt_grace_s=0.8, late_history_s=2.0)


def real_comfyui_url() -> str | None:
    """A real server, by the operator's wish, to run the tests on that any ComfyUI must pass."""
    return os.environ.get("COMFYLINE_TEST_COMFYUI_URL") or None


def new_id() -> str:
    return str(uuid.uuid4())


def picture(prefix: str | None = None, **inputs: Any) -> Graph:
    """Nodes without models that every ComfyUI has; never cached unless the arguments repeat."""
    inputs.setdefault("color", random.randrange(2**24))
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, **inputs}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": prefix or f"fleet-test/{uuid.uuid4()}/out"},
        },
    }


def work(seconds: float, *, steps: int = 10) -> Graph:
    """A prompt that keeps the simulator busy for a known time."""
    graph = picture()
    graph["2"] = {"class_type": "SimulatedWork", "inputs": {"image": ["1", 0], "seconds": seconds, "steps": steps}}
    return graph


def with_node(class_type: str, **inputs: Any) -> Graph:
    """A picture that passes through one of the simulator's test nodes."""
    graph = picture()
    graph["2"] = {"class_type": class_type, "inputs": {"image": ["1", 0], **inputs}}
    return graph


def clear_faults(server: SimulatorProcess) -> None:
    request = urllib.request.Request(f"{server.base_url}/simulator/faults", method="DELETE")
    with urllib.request.urlopen(request, timeout=10):
        pass


# Tests name fixtures only as arguments, so a module takes over those it needs with `import server as server`: the
# linter reads that as meant, and would call a plain import unused.


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One server for all tests of a module."""
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-test-nodes") as server:
        yield server


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One server for all tests of a module: the oldest release that works."""
    with simulator(tmp_path_factory.mktemp("oldest"), "--simulate-version", "0.3.45") as server:
        yield server


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One server for all tests of a module: the newest release, with two GPUs in its one process."""
    flags = ("--simulate-version", "newest", "--simulate-gpus", "2")
    with simulator(tmp_path_factory.mktemp("newest"), *flags) as server:
        yield server


@pytest.fixture
def server(shared: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """A server without faults, before and after."""
    yield shared
    clear_faults(shared)


@pytest.fixture
def session(server: SimulatorProcess) -> Iterator[ComfySession]:
    with ComfySession(server.base_url, pace=QUICK) as session:
        yield session


def bytes_of(session: ComfySession, item: ReportedOutput) -> bytes:
    """Return what the instance has in an output file, as it hands it out."""
    params = {"filename": item.filename, "subfolder": item.subfolder, "type": item.folder}
    answer = requests.get(f"{session.client.base_url}/view", params=params, timeout=10)
    answer.raise_for_status()
    return answer.content


class Recorder:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.started = 0
        self.points: list[Progress] = []
        self.previews: list[tuple[str | None, str, bytes]] = []
        self.cached: list[str] = []
        self.executed: list[tuple[str, list[ReportedOutput]]] = []
        self.thread: threading.Thread | None = None

    def on_started(self) -> None:
        self.started += 1
        self.thread = threading.current_thread()

    def on_progress(self, progress: Progress) -> None:
        self.points.append(progress)

    def on_cached(self, nodes: Sequence[str]) -> None:
        self.cached += nodes

    def on_executed(self, node_id: str, outputs: Sequence[ReportedOutput]) -> None:
        self.executed.append((node_id, list(outputs)))

    def on_preview(self, node_id: str | None, content_type: str, data: bytes) -> None:
        self.previews.append((node_id, content_type, data))
