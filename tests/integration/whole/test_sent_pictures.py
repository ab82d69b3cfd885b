"""What nodes make is told and found while others still run, and pictures that are sent reach scripts that wait."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from tests.fleet import ALL, Fleet, work
from tests.ports import free_port
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

#: What ComfyUI's own example of `SaveImageWebsocket` does, call by call.
WAITING_SCRIPT = """
import json, sys, urllib.request, uuid, websocket
server, prompt = sys.argv[1], json.loads(sys.argv[2])
client_id = str(uuid.uuid4())
ws = websocket.WebSocket()
ws.connect(f"ws://{server}/ws?clientId={client_id}")
body = json.dumps({"prompt": prompt, "client_id": client_id}).encode()
prompt_id = json.loads(urllib.request.urlopen(f"http://{server}/prompt", data=body).read())["prompt_id"]
current_node, pictures = "", {}
while True:
    out = ws.recv()
    if isinstance(out, str):
        message = json.loads(out)
        if message["type"] == "executing" and message["data"]["prompt_id"] == prompt_id:
            if message["data"]["node"] is None:
                break
            current_node = message["data"]["node"]
    elif current_node == "sends":
        pictures.setdefault(current_node, []).append(out[8:])
print([picture[:4] for picture in pictures["sends"]])
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with Fleet(tmp_path_factory.mktemp("fleet"), simulated_gpus="2", comfyui_port=str(port)) as fleet:
        fleet.start(*ALL).ready()
        yield f"http://127.0.0.1:{port}"


def told(connection: websocket.WebSocket, kind: str, prompt_id: str) -> dict[str, Any]:
    """Read on until there is a message of this kind about a prompt."""
    while True:
        found = connection.recv()
        if isinstance(found, str):
            message = json.loads(found)
            if message["type"] == kind and message["data"].get("prompt_id") == prompt_id:
                data: dict[str, Any] = message["data"]
                return data


def two_stages(seconds: float) -> dict[str, Any]:
    """A picture that is saved at once, and one after a while."""
    graph = work(seconds, seed=7)
    graph["4"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "first"}}
    return graph


def test_a_picture_is_told_and_seen_while_others_are_made(base: str) -> None:
    client = uuid.uuid4().hex
    address = f"{base.replace('http', 'ws', 1)}/ws?clientId={client}"
    with closing(websocket.create_connection(address, timeout=60 * PATIENCE)) as connection:
        body = {"prompt": two_stages(20.0), "client_id": client}
        prompt_id = requests.post(f"{base}/prompt", json=body, timeout=20).json()["prompt_id"]
        first = told(connection, "executed", prompt_id)
        assert first["node"] == "4"
        [image] = first["output"]["images"]
        seen = requests.get(f"{base}/view", params=image, timeout=20)
        assert seen.content.startswith(b"\x89PNG")
        assert seen.headers["Content-Type"] == "image/png"
        assert requests.get(f"{base}/api/jobs/{prompt_id}", timeout=20).json()["status"] == "in_progress"
        second = told(connection, "executed", prompt_id)
        assert second["node"] == "3", "and the first one is not told again"
        told(connection, "execution_success", prompt_id)
    entry = requests.get(f"{base}/history/{prompt_id}", timeout=20).json()[prompt_id]
    assert entry["outputs"] == {"4": first["output"], "3": second["output"]}
    again = requests.get(f"{base}/view", params=image, timeout=20)
    assert again.content == seen.content


def test_what_was_made_of_a_prompt_that_is_cancelled_is_gone(base: str) -> None:
    client = uuid.uuid4().hex
    address = f"{base.replace('http', 'ws', 1)}/ws?clientId={client}"
    with closing(websocket.create_connection(address, timeout=60 * PATIENCE)) as connection:
        body = {"prompt": two_stages(100.0), "client_id": client}
        prompt_id = requests.post(f"{base}/prompt", json=body, timeout=20).json()["prompt_id"]
        [image] = told(connection, "executed", prompt_id)["output"]["images"]
        requests.post(f"{base}/interrupt", json={"prompt_id": prompt_id}, timeout=20)
        told(connection, "execution_interrupted", prompt_id)
    until(lambda: requests.get(f"{base}/view", params=image, timeout=20).status_code == 404, what="it is gone")


def test_the_script_that_waits_for_pictures(base: str, tmp_path: Path) -> None:
    graph = work(1.0, seed=8)
    graph["1"]["inputs"]["batch_size"] = 2
    graph["sends"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["2", 0]}}
    del graph["3"]
    command = [sys.executable, "-c", WAITING_SCRIPT, base.removeprefix("http://"), json.dumps(graph)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[b'\\x89PNG', b'\\x89PNG']", done.stdout


def test_what_the_cache_spares_is_told(base: str) -> None:
    # As many as there are GPUs, and once more: each has run it before.
    client, cached = uuid.uuid4().hex, []
    address = f"{base.replace('http', 'ws', 1)}/ws?clientId={client}"
    with closing(websocket.create_connection(address, timeout=60 * PATIENCE)) as connection:
        for _ in range(3):
            body = {"prompt": work(1.5, seed=99), "client_id": client}
            prompt_id = requests.post(f"{base}/prompt", json=body, timeout=20).json()["prompt_id"]
            cached.append(told(connection, "execution_cached", prompt_id)["nodes"])
            told(connection, "execution_success", prompt_id)
    assert cached[0] == []
    assert set(cached[-1]) >= {"1", "2"}
