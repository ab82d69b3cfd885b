"""Each fault that can be ordered from the simulator strikes as described, and only as often as ordered."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from tests.simulator_process import SimulatorProcess, simulator
from tests.waiting import PATIENCE

FLAGS = ("--simulate-step-seconds", "0.01", "--simulate-load-seconds", "0")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with simulator(tmp_path_factory.mktemp("faults"), *FLAGS) as process:
        yield process


@pytest.fixture
def server(shared: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """For faults that pass: one process for all tests, with nothing on order and nothing in memory."""
    yield shared
    requests.delete(f"{shared.base_url}/simulator/faults", timeout=10)
    requests.post(f"{shared.base_url}/free", json={"free_memory": True}, timeout=10)
    requests.post(f"{shared.base_url}/history", json={"clear": True}, timeout=10)


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[SimulatorProcess]:
    """For faults that do not: a process of the test's own."""
    with simulator(tmp_path, *FLAGS) as process:
        yield process


def image_graph(prefix: str = "f/x", colour: int = 1) -> dict[str, Any]:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": colour}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def sampler_graph(steps: int = 4) -> dict[str, Any]:
    sampler = {"seed": 1, "steps": steps, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dreamshaper_8.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a house", "clip": ["1", 1]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {"class_type": "KSampler", "inputs": {**sampler, **links}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "s/x"}},
    }


def post(server: SimulatorProcess, graph: dict[str, Any], **more: Any) -> requests.Response:
    return requests.post(f"{server.base_url}/prompt", json={"prompt": graph, **more}, timeout=10)


def finish(server: SimulatorProcess, graph: dict[str, Any], timeout_s: float = 10.0, **more: Any) -> dict[str, Any]:
    """Run a graph and return its history entry."""
    reply = post(server, graph, **more)
    assert reply.status_code == 200, reply.text
    prompt_id = reply.json()["prompt_id"]
    deadline = time.monotonic() + timeout_s * PATIENCE
    while time.monotonic() < deadline:
        entry = server.get(f"/history/{prompt_id}").get(prompt_id)
        if entry is not None:
            return dict(entry)
        time.sleep(0.005)
    raise AssertionError("no history")


@contextlib.contextmanager
def listening(server: SimulatorProcess, client_id: str) -> Iterator[websocket.WebSocket]:
    socket = websocket.create_connection(f"{server.ws_url}?clientId={client_id}", timeout=5)
    socket.recv()
    try:
        yield socket
    finally:
        socket.close()


def test_orders_are_listed_counted_and_cleared(server: SimulatorProcess) -> None:
    url = f"{server.base_url}/simulator/faults"
    assert server.get("/simulator/faults")["active"] == {}
    assert set(server.get("/simulator/faults")["known"]) >= {"oom", "exit", "hang", "worker_dead"}
    server.fault(oom={"times": 2}, null_lost={})
    assert server.get("/simulator/faults")["active"]["oom"]["times"] == 2
    requests.delete(f"{url}?name=null_lost", timeout=5)
    assert set(server.get("/simulator/faults")["active"]) == {"oom"}
    assert requests.delete(url, timeout=5).json() == {"active": {}}
    assert requests.post(url, json={"nonsense": {}}, timeout=5).status_code == 400
    assert requests.post(url, json={"oom": {"colour": 1}}, timeout=5).status_code == 400


def test_oom_once(server: SimulatorProcess) -> None:
    server.fault(oom={})
    entry = finish(server, sampler_graph())
    name, error = entry["status"]["messages"][-1]
    assert (name, error["exception_type"], error["node_type"]) == (
        "execution_error",
        "torch.OutOfMemoryError",
        "KSampler",
    )
    assert finish(server, sampler_graph())["status"]["completed"] is True


def test_rejections(server: SimulatorProcess) -> None:
    server.fault(reject_413={}, reject_500={"skip": 1})
    replies = [post(server, image_graph()) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [413, 200, 500]
    assert replies[0].text.startswith("Maximum request body size 104857600 exceeded")
    assert replies[2].headers["Content-Type"] == "text/plain; charset=utf-8"
    assert post(server, image_graph()).status_code == 200


def test_worker_dead(doomed: SimulatorProcess) -> None:
    doomed.fault(worker_dead={})
    post(doomed, image_graph())
    post(doomed, image_graph())
    time.sleep(0.2)
    assert len(doomed.get("/queue")["queue_running"]) == 1
    assert doomed.get("/prompt") == {"exec_info": {"queue_remaining": 2}}
    assert doomed.get("/history") == {}


def test_exit_at_the_next_prompt_and_start_again_empty(tmp_path: Path) -> None:
    with simulator(tmp_path, "--simulate-fault", "exit=7") as server:
        port = server.port
        post(server, image_graph())
        assert server.wait_exit() == 7
    with simulator(tmp_path, port=port) as server:
        assert server.get("/history") == {}
        assert post(server, image_graph()).json()["number"] == 0


def test_exit_at_a_step_of_a_sampler(doomed: SimulatorProcess) -> None:
    doomed.fault(exit={"code": 3, "step": 2})
    with listening(doomed, "c") as socket:
        post(doomed, sampler_graph(), client_id="c")
        assert doomed.wait_exit() == 3
        steps = []
        with contextlib.suppress(websocket.WebSocketException, ConnectionError):
            while message := socket.recv():
                steps += [json.loads(message)["data"]["value"]] if '"progress"' in str(message)[:20] else []
        assert steps in ([], [1])


def test_exit_after_a_while(doomed: SimulatorProcess) -> None:
    started = time.monotonic()
    doomed.fault(exit={"code": 4, "after_s": 0.3})
    assert finish(doomed, image_graph())["status"]["completed"] is True
    assert doomed.wait_exit() == 4
    assert time.monotonic() - started >= 0.3


def test_hang_is_deaf_to_interrupts(server: SimulatorProcess) -> None:
    server.fault(hang={"seconds": 0.6})
    graph = {
        **image_graph(),
        "3": {"class_type": "SimulatedWork", "inputs": {"image": ["1", 0], "seconds": 0.02, "steps": 2}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "h"}},
    }
    started = time.monotonic()
    prompt_id = post(server, graph).json()["prompt_id"]
    time.sleep(0.1)
    requests.post(f"{server.base_url}/interrupt", json={"prompt_id": prompt_id}, timeout=5)
    while not server.get(f"/history/{prompt_id}"):
        time.sleep(0.01)
    assert time.monotonic() - started >= 0.6


def test_missing_file(server: SimulatorProcess) -> None:
    server.fault(missing_file={})
    item = finish(server, image_graph("m/x"))["outputs"]["2"]["images"][0]
    assert requests.get(f"{server.base_url}/view", params=item, timeout=5).status_code == 404
    item = finish(server, image_graph("m/y"))["outputs"]["2"]["images"][0]
    assert requests.get(f"{server.base_url}/view", params=item, timeout=5).status_code == 200


def test_late_history_keeps_the_order(server: SimulatorProcess) -> None:
    server.fault(late_history={"seconds": 0.4})
    with listening(server, "c") as socket:
        prompt_id = post(server, image_graph(), client_id="c").json()["prompt_id"]
        names = [json.loads(socket.recv())["type"]]
        while names[-1] != "execution_success":
            names.append(json.loads(socket.recv())["type"])
        assert server.get(f"/history/{prompt_id}") == {}
        rest = [json.loads(socket.recv()) for _ in range(2)]
        assert [message["type"] for message in rest] == ["status", "executing"]
        assert rest[1]["data"] == {"node": None, "prompt_id": prompt_id}
        assert server.get(f"/history/{prompt_id}")


def test_null_lost(server: SimulatorProcess) -> None:
    server.fault(null_lost={})
    with listening(server, "c") as socket:
        finish(server, image_graph(), client_id="c")
        socket.settimeout(0.3)
        heard = []
        with contextlib.suppress(websocket.WebSocketTimeoutException):
            while True:
                heard.append(json.loads(socket.recv()))
        assert [message["type"] for message in heard][-2:] == ["execution_success", "status"]


def test_socket_drop_has_no_close_frame(server: SimulatorProcess) -> None:
    with listening(server, "c") as socket:
        server.fault(socket_drop={"skip": 3})
        entry = finish(server, image_graph(), client_id="c")
        assert entry["status"]["completed"] is True
        for _ in range(3):
            assert socket.recv()
        # An orderly end would come as a close frame and an empty message.
        with pytest.raises((websocket.WebSocketConnectionClosedException, ConnectionError)):
            socket.recv()


def test_socket_stall(server: SimulatorProcess) -> None:
    with listening(server, "c") as socket:
        server.fault(socket_stall={"seconds": 1.5})
        started = time.monotonic()
        assert finish(server, image_graph(), client_id="c")["status"]["completed"] is True
        assert time.monotonic() - started < 1.4
        socket.recv()
        assert time.monotonic() - started >= 1.4


def test_a_socket_that_is_not_read_stalls_the_others(server: SimulatorProcess) -> None:
    """No fault needed: one loop sends to all, so one full socket holds everybody up while prompts complete."""
    with listening(server, "deaf"), listening(server, "other") as other:
        # Texts of some size for "deaf" alone, until its socket is full.
        text = "words and more words " * 500
        sources = (f"{text}{number}" for number in range(400))
        graph = {str(n): {"class_type": "PreviewAny", "inputs": {"source": source}} for n, source in enumerate(sources)}
        finish(server, graph, timeout_s=20, client_id="deaf")
        assert finish(server, image_graph("after"), client_id="other")["status"]["completed"] is True
        other.settimeout(0.5)
        kinds = []
        with contextlib.suppress(websocket.WebSocketTimeoutException):
            while True:
                kinds.append(json.loads(other.recv())["type"])
        assert set(kinds) <= {"status"}


def test_slow_loop(server: SimulatorProcess) -> None:
    server.fault(slow_loop={"seconds": 0.5})
    started = time.monotonic()
    server.get("/prompt")
    assert time.monotonic() - started >= 0.4


def test_output_that_is_not_json(server: SimulatorProcess) -> None:
    server.fault(non_json_ui={})
    post(server, image_graph())
    while server.get("/prompt")["exec_info"]["queue_remaining"]:
        time.sleep(0.01)
    assert requests.get(f"{server.base_url}/history", timeout=5).status_code == 500


def test_sigterm_kills_at_once_and_temp_stays(doomed: SimulatorProcess) -> None:
    (doomed.temp_dir / "left.png").write_bytes(b"x")
    post(doomed, sampler_graph(steps=5000))
    started = time.monotonic()
    doomed.stop()
    assert time.monotonic() - started < 5.0 * PATIENCE
    assert doomed.popen.returncode == -15
    assert (doomed.temp_dir / "left.png").exists()
    with simulator(doomed.root):
        assert not (doomed.temp_dir / "left.png").exists()
