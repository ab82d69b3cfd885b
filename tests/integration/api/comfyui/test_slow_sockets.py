"""Websockets whose clients do not read, or have nothing to hear: they cost little, and hold up nobody."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import websocket

from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.records.job_error import JobError
from tests.integration.api_fixtures import Worker, gunicorn_api, settings_for
from tests.makers import GRAPH
from tests.ports import free_port
from tests.served_processes import ServedProcesses, holders_of
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

#: A message so long, and so many of them, are more than all buffers of a connection on the way.
LONG, MESSAGES = 512 * 1024, 60


@dataclass
class Served:
    base: str
    worker: Worker
    processes: ServedProcesses

    def connect(self, client_id: str, **options: Any) -> websocket.WebSocket:
        address = f"{self.base.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        return websocket.create_connection(address, timeout=30 * PATIENCE, **options)

    def submit(self, client_id: str) -> str:
        body = {"prompt": GRAPH, "client_id": client_id}
        answer = requests.post(f"{self.base}/prompt", json=body, timeout=20)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["prompt_id"])

    def fail(self, job_id: str) -> None:
        error = JobError(code="node_execution_error", message="boom", traceback="x" * LONG)
        self.worker.beat()
        assert self.worker.ledger.claims.fail(self.worker.claim(job_id), error)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = settings_for(tmp_path_factory.mktemp("api"))
    migrate(settings)
    ledger = Ledger(settings)
    worker = Worker(ledger, settings.outputs_dir)
    worker.come_up()
    port = free_port()
    with gunicorn_api(settings, COMFYLINE_COMFYUI_PORT=str(port)) as url:
        yield Served(base=f"http://127.0.0.1:{port}", worker=worker, processes=ServedProcesses(url))
    ledger.close()


def hears(connection: websocket.WebSocket, prompt_id: str) -> bool:
    """Read on until a prompt's end is told."""
    while True:
        message = connection.recv()
        assert isinstance(message, str)
        if '"execution_error"' in message and prompt_id in message:
            return True


def test_one_that_does_not_read_is_cut_off_and_holds_up_nobody(served: Served) -> None:
    slow, other = uuid.uuid4().hex, uuid.uuid4().hex
    narrow = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
    with closing(served.connect(slow, sockopt=narrow)) as deaf, closing(served.connect(other)) as quick:
        served.processes.note_memory()
        for _ in range(MESSAGES):
            served.fail(served.submit(slow))
        mine = served.submit(other)
        served.fail(mine)
        assert hears(quick, mine)
        assert requests.get(f"{served.base}/prompt", timeout=20).ok
        # What is told to it waits in the ledger, message by message, and not in this process.
        assert served.processes.grown_bytes() < MESSAGES * LONG / 2
        assert isinstance(deaf.sock, socket.socket)
        port = deaf.sock.getsockname()[1]
        until(lambda: not holders_of(port, served.processes.pids), timeout_s=60, what="it is cut off")
        again = served.submit(other)
        served.fail(again)
        assert hears(quick, again)


def test_idle_ones_cost_no_thread_and_next_to_no_work(served: Served) -> None:
    [*pids] = served.processes.pids
    threads = {pid: _threads(pid) for pid in pids}
    connections = [served.connect(uuid.uuid4().hex) for _ in range(200)]
    try:
        for each in connections:
            assert b'"status"' in str(each.recv()).encode()
        assert {pid: _threads(pid) for pid in pids} == threads
        client = uuid.uuid4().hex
        with closing(served.connect(client)) as listening:
            mine = served.submit(client)
            served.fail(mine)
            assert hears(listening, mine)
    finally:
        for each in connections:
            each.close()


def _threads(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:  # noqa: PTH123
        return int(next(line for line in status if line.startswith("Threads:")).split()[1])
