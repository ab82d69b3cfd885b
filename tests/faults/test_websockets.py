"""The process of the API that holds a websocket dies while a prompt runs: its client comes back, and misses nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from tests.fleet import ALL, Fleet, work
from tests.ports import free_port
from tests.served_processes import holders_of
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.timeout(400)

#: Long enough for the API to be gone and back, also where others use the machine.
RUN_S = 25.0 * PATIENCE


class Client:
    """A client as published: `websocket-client` with its own way to connect again, and one client id for ever."""

    def __init__(self, base: str) -> None:
        self.id = uuid.uuid4().hex
        self._base = base
        #: What each of its connections was told.
        self.connections: list[list[dict[str, Any]]] = []
        self.app = websocket.WebSocketApp(
            f"{base.replace('http', 'ws', 1)}/ws?clientId={self.id}",
            on_open=lambda _app: self.connections.append([]),
            on_reconnect=lambda _app: self.connections.append([]),
            on_message=self._take,
        )
        self._thread = threading.Thread(target=lambda: self.app.run_forever(reconnect=1), daemon=True)

    def __enter__(self) -> Client:
        self._thread.start()
        until(lambda: self.told("status"), what="a connection")
        return self

    def __exit__(self, *_error: object) -> None:
        self.app.close()
        self._thread.join(20)

    def _take(self, _app: Any, message: str | bytes) -> None:
        if isinstance(message, str):
            self.connections[-1].append(json.loads(message))

    def told(self, kind: str) -> list[Any]:
        """What its newest connection was told of a kind."""
        newest = self.connections[-1] if self.connections else []
        return [each["data"] for each in newest if each["type"] == kind]

    @property
    def port(self) -> int:
        assert self.app.sock is not None
        assert self.app.sock.sock is not None
        return int(self.app.sock.sock.getsockname()[1])

    def submit(self, graph: dict[str, Any]) -> str:
        answer = requests.post(f"{self._base}/prompt", json={"prompt": graph, "client_id": self.id}, timeout=20)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["prompt_id"])

    def has_ended(self, prompt_id: str) -> bool:
        last = {"node": None, "prompt_id": prompt_id}
        return last in self.told("executing")


class Served:
    """A fleet of two processes of the API, and where ComfyUI's clients find it."""

    def __init__(self, fleet: Fleet, base: str) -> None:
        self.fleet, self.base = fleet, base

    def workers(self) -> list[int]:
        master = self.fleet.processes["api"].pid
        return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    def entry(self, prompt_id: str) -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = requests.get(f"{self.base}/history/{prompt_id}", timeout=10).json()
        return found.get(prompt_id) or {"status": {"completed": False}}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    port = free_port()
    with Fleet(tmp_path, simulated_gpus="2", comfyui_port=str(port), api_processes="2") as fleet:
        fleet.start(*ALL).ready()
        yield Served(fleet, f"http://127.0.0.1:{port}")


def came_back(client: Client, prompt_id: str) -> None:
    """What a client sees that comes back while its prompt runs: how many there are, who it is, and which node runs."""
    until(lambda: len(client.connections) > 1 and client.told("executing"), timeout_s=60, what="it has come back")
    first, second = client.connections[-1][:2]
    assert first["type"] == "status"
    assert first["data"] == {"status": {"exec_info": {"queue_remaining": 1}}, "sid": client.id}
    assert second == {"type": "executing", "data": {"node": "2", "display_node": "2", "prompt_id": prompt_id}}
    assert not client.told("execution_start"), "that was told before"


def ended_whole(client: Client, served: Served, prompt_id: str) -> None:
    until(lambda: client.has_ended(prompt_id), timeout_s=90, what="its end is told")
    assert [each["prompt_id"] for each in client.told("execution_success")] == [prompt_id]
    entry = served.entry(prompt_id)
    assert entry["status"]["completed"] is True
    [image] = entry["outputs"]["3"]["images"]
    assert requests.get(f"{served.base}/view", params=image, timeout=10).content.startswith(b"\x89PNG")
    [executed] = client.told("executed")
    assert executed["output"] == entry["outputs"]["3"]


def test_the_process_that_holds_it_is_killed(served: Served) -> None:
    with Client(served.base) as client:
        prompt_id = client.submit(work(RUN_S, steps=200, seed=1))
        until(lambda: len(client.told("progress")) > 4, what="it runs")
        workers = served.workers()
        assert len(workers) == 2
        [holder] = holders_of(client.port, workers)
        os.kill(holder, signal.SIGKILL)
        came_back(client, prompt_id)
        until(lambda: client.told("progress"), what="it hears how far it is")
        ended_whole(client, served, prompt_id)


def test_a_prompt_that_ends_meanwhile_is_in_the_history(served: Served) -> None:
    with Client(served.base) as client:
        prompt_id = client.submit(work(3.0, steps=30, seed=3))
        until(lambda: client.told("progress"), what="it runs")
        served.fleet.kill("api")
        outputs = served.fleet.data_dir / "outputs"
        until(lambda: any(outputs.rglob("*.png")), what="the prompt is over")
        served.fleet.start("api")
        until(lambda: len(client.connections) > 1 and client.told("status"), timeout_s=60, what="it has come back")
        until(lambda: served.entry(prompt_id)["status"]["completed"], what="the history has it")
        after = client.submit(work(0.5, seed=4))
        until(lambda: client.has_ended(after), what="the next one is told")
        told = {each["data"].get("prompt_id") for each in client.connections[-1] if each["type"] == "execution_start"}
        assert told == {after}, "as in ComfyUI, what ended meanwhile is told by the history alone"
