"""Agents and a whole fleet: official client, served API, GPU worker and simulator; what is killed, and who leaves."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from mcp import Client
from PIL import Image

from tests.agent_client import call, connected, made, pictures, with_client
from tests.fleet import Fleet, work
from tests.paths import ROOT
from tests.served_processes import ServedProcesses
from tests.waiting import PATIENCE, until

#: A fleet starts within the time of its first test.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY = "agents-key"
CLIENTS = 200


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet"), api_keys=KEY, api_processes="1") as fleet:
        fleet.key = KEY
        fleet.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1, timeout_s=120)
        yield fleet


def submitted(fleet: Fleet, seconds: float, seed: int) -> str:
    job: dict[str, Any] = made(call(fleet.base_url, KEY, "submit_workflow", {"workflow": work(seconds, seed=seed)}))
    return str(job["id"])


def ended(fleet: Fleet, job_id: str) -> dict[str, Any]:
    """The job, waited for as an agent does."""

    def asked() -> dict[str, Any] | None:
        job = made(call(fleet.base_url, KEY, "wait_for_job", {"job_id": job_id, "timeout_s": 20}))
        return job if job["has_ended"] else None

    found: dict[str, Any] = until(asked, timeout_s=60, what=f"the end of {job_id}")
    return found


def test_an_agent_makes_one_picture_and_then_many(fleet: Fleet) -> None:
    heard: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")

    async def work_with(client: Client) -> None:
        arguments = {"template": "sd3", "parameters": {"prompt": "a harbour", "steps": 8}}
        job = made(await client.call_tool("submit_template", arguments))
        waiting = {"job_id": job["id"], "timeout_s": 60}
        done = made(await client.call_tool("wait_for_job", waiting, progress_callback=hear))
        assert done["status"] == "succeeded", done
        shown = await client.call_tool("show_outputs", {"job_id": job["id"]})
        [picture] = pictures(shown)
        assert max(Image.open(io.BytesIO(base64.b64decode(picture.data))).size) == 512
        many = {"workflow": work(0.1), "over": {"1.color": "1..4"}, "idempotency_key": "many"}
        batch = made(await client.call_tool("submit_batch", many))
        waiting = {"batch_id": batch["id"], "timeout_s": 60}
        done = made(await client.call_tool("wait_for_batch", waiting))
        assert (done["has_ended"], done["counts"]["succeeded"]) == (True, 4)
        assert pictures(await client.call_tool("show_batch", {"batch_id": batch["id"]}))

    with_client(fleet.base_url, KEY, work_with)
    assert heard


def test_the_program_of_the_documentation_runs_as_it_stands_there(fleet: Fleet) -> None:
    [program] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/agents.md").read_text("utf-8"), re.M | re.S)
    environment = {"PATH": os.environ["PATH"], "COMFY_BASE_URL": fleet.base_url, "COMFY_API_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("succeeded ['http"), done.stdout


def test_a_job_that_runs_is_canceled(fleet: Fleet) -> None:
    job_id = submitted(fleet, 60, seed=11)
    fleet.wait(job_id, "running")

    made(call(fleet.base_url, KEY, "cancel_job", {"job_id": job_id}))
    assert ended(fleet, job_id)["status"] == "canceled"


def test_a_client_that_leaves_while_it_waits_loses_nothing(fleet: Fleet) -> None:
    job_id = submitted(fleet, 3, seed=12)

    async def leave() -> None:
        async with connected(fleet.base_url, KEY) as client:
            waiting = client.call_tool("wait_for_job", {"job_id": job_id, "timeout_s": 60})
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(waiting, 0.3)

    asyncio.run(leave())
    assert ended(fleet, job_id)["status"] == "succeeded"
    assert fleet.job(job_id)["attempt"] == 1


def test_an_api_that_dies_while_an_agent_waits_costs_a_question_and_no_job(fleet: Fleet) -> None:
    job_id = submitted(fleet, 4, seed=13)

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        if "api" in fleet.processes:
            fleet.kill("api")

    async def wait(client: Client) -> None:
        await client.call_tool("wait_for_job", {"job_id": job_id, "timeout_s": 60}, progress_callback=hear)

    with pytest.raises(BaseException, match=r"(?s).*"):
        with_client(fleet.base_url, KEY, wait)
    assert "api" not in fleet.processes
    fleet.start("api").ready(gpus=1, timeout_s=120)

    assert ended(fleet, job_id)["status"] == "succeeded"
    assert fleet.job(job_id)["attempt"] == 1


def test_clients_that_wait_cost_no_thread_each(fleet: Fleet) -> None:
    job_id = submitted(fleet, 120, seed=14)
    served = ServedProcesses(fleet.base_url)
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "wait_for_job",
            "arguments": {"job_id": job_id, "timeout_s": 300},
            "_meta": {"progressToken": "mine"},
        },
    }
    content = json.dumps(body).encode()
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{fleet.port}\r\nAuthorization: Bearer {KEY}\r\n"
        "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    made(call(fleet.base_url, KEY, "get_job", {"job_id": job_id}))
    before = threads(served)

    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", fleet.port), timeout=30 * PATIENCE))
            client.sendall(head.encode() + content)
            selector.register(client, selectors.EVENT_READ, bytearray())
        told: set[int] = set()

        def all_told() -> bool:
            for key, _events in selector.select(timeout=0.5):
                key.data.extend(key.fileobj.recv(65536))  # type: ignore[union-attr]
                if b"notifications/progress" in key.data:
                    told.add(key.fd)
            return len(told) == CLIENTS

        until(all_told, timeout_s=60, what="progress for all clients")
        assert threads(served) - before < CLIENTS / 10
        # And others are served meanwhile.
        assert requests.get(f"{fleet.base_url}/health", timeout=30 * PATIENCE).ok
    fleet.cancel(job_id)
    fleet.wait(job_id)


def threads(served: ServedProcesses) -> int:
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in served.pids)
