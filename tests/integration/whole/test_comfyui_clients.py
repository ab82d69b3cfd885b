"""Clients of one ComfyUI, as they come from PyPI and npm, on a whole fleet: they find what they expect."""

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

from tests.fleet import ALL, Fleet, work
from tests.foreign_clients import node, npm_packages, python, run
from tests.ports import free_port
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

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
#: ComfyUI's own server for agents, asked as an agent's program asks it: a run, its files, a bad graph, a cancel.
AGENT = """
import asyncio, json, os, sys, urllib.request
from pathlib import Path
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
base, graphs, programs = sys.argv[1], json.loads(sys.argv[2]), Path(sys.executable).parent
for name, graph in graphs.items():
    Path(f"{name}.json").write_text(json.dumps(graph))
async def main():
    environment = {**os.environ, "COMFYUI_URL": base, "PATH": f"{programs}:{os.environ['PATH']}"}
    server = StdioServerParameters(command=str(programs / "comfy-mcp"), args=[], env=environment)
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        async def call(tool, **arguments):
            told = await session.call_tool(tool, arguments)
            text = "".join(part.text for part in told.content if part.type == "text")
            return "refused" if told.is_error else json.loads(text)
        async def submit(name):
            return await call("run_workflow", workflow_path=str(Path(f"{name}.json").resolve()), wait=False)
        short = (await submit("short"))["prompt_id"]
        done = await call("job", action="wait", prompt_id=short, timeout_seconds=100)
        [address] = done["outputs_by_node"]["3"]
        picture = urllib.request.urlopen(address).read()
        bad = await submit("bad")
        long = (await submit("long"))["prompt_id"]
        await call("job", action="cancel", prompt_id=long)
        ended = await call("job", action="wait", prompt_id=long, timeout_seconds=100)
        print(json.dumps([picture[1:4].decode(), bad, ended["status"]]))
asyncio.run(main())
"""
SCRIPTS = Path(__file__).parents[2] / "data" / "javascript"
#: Clients from npm, each with what else it says of itself when all went well.
NPM_CLIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "comfy_ui_client.mjs": ("comfy-ui-client@0.1.2", {"interrupted": "execution_interrupted", "devices": 2}),
    "stable_canvas_client.mjs": ("@stable-canvas/comfyui-client@1.5.9", {"interrupted": True, "nodes": True}),
    "saintno_sdk.mjs": ("@saintno/comfyui-sdk@0.3.1", {"interrupted": "ExecutionInterruptedError"}),
}


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


def three_graphs(seed: int) -> str:
    """One that runs for a moment, one that is to be cancelled, and one that nobody can run."""
    bad = work(1.0, seed=seed)
    bad["2"]["class_type"] = "NobodyHasThis"
    graphs = {"short": work(3.0, steps=20, seed=seed), "long": work(100.0, steps=1000, seed=seed + 1), "bad": bad}
    return json.dumps(graphs)


@pytest.mark.parametrize("script", NPM_CLIENTS)
def test_clients_from_npm(base: str, tmp_path: Path, script: str) -> None:
    package, more = NPM_CLIENTS[script]
    # The second of them has its websockets from another package.
    packages = npm_packages(package, "ws@8")
    host = base.removeprefix("http://")
    told = node(tmp_path, packages, (SCRIPTS / script).read_text(), host, three_graphs(50 + 2 * len(script)))
    seen = next(found for line in told.splitlines() if "picture" in (found := json.loads(line)))
    assert seen["picture"] == "PNG"
    assert seen["refused"]
    assert {name: seen[name] for name in more} == more
    assert seen.get("steps", 1) > 0


def test_comfy_mcp(base: str, tmp_path: Path) -> None:
    done = run(tmp_path, "-c", AGENT, base, three_graphs(71), timeout_s=500)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().splitlines()[-1]) == ["PNG", "refused", "cancelled"]


def test_prompts_of_one_client_run_at_once(base: str) -> None:
    client = uuid.uuid4().hex
    bodies = [{"prompt": work(3.0, seed=seed), "client_id": client} for seed in (11, 12)]
    names = {requests.post(f"{base}/prompt", json=body, timeout=20).json()["prompt_id"] for body in bodies}

    def running() -> set[str]:
        return {item[1] for item in requests.get(f"{base}/queue", timeout=10).json()["queue_running"]}

    until(lambda: running() == names, what="both at once")
