"""Clients of one ComfyUI, as they come from PyPI, on a whole fleet: they find what they expect."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_clients import python, run
from tests.fleet import ALL, Fleet, work
from tests.ports import free_port
from tests.waiting import until

pytestmark = pytest.mark.slow

#: What ComfyUI's own example of its websocket does, call by call.
CLASSIC = """
import json, sys, urllib.parse, urllib.request, uuid, websocket
server, prompt = sys.argv[1], json.loads(sys.argv[2])
client_id, prompt_id = str(uuid.uuid4()), str(uuid.uuid4())
ws = websocket.WebSocket()
ws.connect(f"ws://{server}/ws?clientId={client_id}")
body = {"prompt": prompt, "client_id": client_id, "prompt_id": prompt_id}
urllib.request.urlopen(urllib.request.Request(f"http://{server}/prompt", data=json.dumps(body).encode())).read()
nodes = []
while True:
    out = ws.recv()
    if isinstance(out, str):
        message = json.loads(out)
        if message["type"] == "executing" and message["data"]["prompt_id"] == prompt_id:
            nodes.append(message["data"]["node"])
            if nodes[-1] is None:
                break
history = json.loads(urllib.request.urlopen(f"http://{server}/history/{prompt_id}").read())[prompt_id]
for output in history["outputs"].values():
    for image in output["images"]:
        print(nodes[0], nodes[-1], urllib.request.urlopen(f"http://{server}/view?{urllib.parse.urlencode(image)}").read()[:4])
"""
SIMPLIFIED = """
import json, sys
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
api = ComfyApiWrapper(sys.argv[1])
found = api.queue_and_wait_images(ComfyWorkflowWrapper(json.loads(sys.argv[2])), "Save Image")
[(name, picture)] = found.items()
open("again.png", "wb").write(picture)
print(name, picture[:4], api.upload_image("again.png")["name"], api.get_queue()["queue_pending"])
"""
SCRIPT = """
import sys
from comfy_script.runtime import *
load(sys.argv[1])
from comfy_script.runtime.nodes import *
with Workflow(wait=True):
    # By place, as the node lists its inputs.
    result = SaveImage(SimulatedWork(EmptyImage(64, 64, 1, 7), 0.7, 4), "script")
print("picture", result.wait()[0].size)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with Fleet(tmp_path_factory.mktemp("fleet"), simulated_gpus="2", comfyui_port=str(port)) as fleet:
        fleet.start(*ALL).ready()
        yield f"http://127.0.0.1:{port}"


def titled(graph: dict[str, Any]) -> dict[str, Any]:
    titles = {"EmptyImage": "Empty", "SimulatedWork": "Work", "SaveImage": "Save Image"}
    return {node: {**entry, "_meta": {"title": titles[entry["class_type"]]}} for node, entry in graph.items()}


def test_the_script_that_all_began_with(base: str, tmp_path: Path) -> None:
    server = base.removeprefix("http://")
    command = [sys.executable, "-c", CLASSIC, server, json.dumps(work(1.5, seed=1))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2 None b'\\x89PNG'", done.stdout


def test_comfy_run(base: str, tmp_path: Path) -> None:
    (tmp_path / "flow.json").write_text(json.dumps(titled(work(1.0, seed=2))))
    comfy = str(Path(python()).parent / "comfy")
    host, port = base.removeprefix("http://").split(":")
    arguments = ("--skip-prompt", "--no-enable-telemetry", "run", "--workflow", "flow.json", "--wait")
    done = run(tmp_path, comfy, *arguments, "--host", host, "--port", port)
    assert done.returncode == 0, done.stdout + done.stderr
    [address] = json.loads(done.stdout.strip().splitlines()[-1])["data"]["outputs"]
    assert requests.get(address, timeout=10).content.startswith(b"\x89PNG")


def test_comfy_api_simplified(base: str, tmp_path: Path) -> None:
    done = run(tmp_path, "-c", SIMPLIFIED, f"{base}/", json.dumps(titled(work(1.0, seed=3))))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "picture_00001_.png b'\\x89PNG' again.png []"


def test_comfy_script(base: str, tmp_path: Path) -> None:
    # It reads its own source.
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run(tmp_path, "script.py", f"{base}/")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().splitlines()[-1] == "picture (64, 64)", done.stdout


def test_prompts_of_one_client_run_at_once(base: str) -> None:
    client = uuid.uuid4().hex
    bodies = [{"prompt": work(3.0, seed=seed), "client_id": client} for seed in (11, 12)]
    names = {requests.post(f"{base}/prompt", json=body, timeout=20).json()["prompt_id"] for body in bodies}

    def running() -> set[str]:
        return {item[1] for item in requests.get(f"{base}/queue", timeout=10).json()["queue_running"]}

    until(lambda: running() == names, what="both at once")
