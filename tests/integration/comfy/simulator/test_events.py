"""The simulator sends the websocket messages recorded from ComfyUI 0.3.64 and 0.10.0: same types, order and keys."""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import websocket

from tests.simulator_process import SimulatorProcess, simulator

COLOURS = itertools.count(1)
STATES = "progress_state"


@pytest.fixture(scope="module", params=["0.3.64", "0.10.0"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with simulator(
        tmp_path_factory.mktemp("ws"), "--simulate-version", request.param, "--simulate-test-nodes"
    ) as process:
        yield process


class Client:
    """One websocket that keeps all it hears: `(type, data)`, binary frames as `("BIN", {...})`."""

    def __init__(self, server: SimulatorProcess, client_id: str | None = None, *, features: bool = True) -> None:
        self.client_id = client_id or uuid.uuid4().hex
        self.server = server
        self.socket = websocket.create_connection(f"{server.ws_url}?clientId={self.client_id}", timeout=10)
        if features:
            hello = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            self.socket.send(json.dumps(hello))

    def receive(self) -> tuple[str, dict[str, Any]]:
        message = self.socket.recv()
        if isinstance(message, bytes):
            return "BIN", decode_frame(message)
        parsed = json.loads(message)
        assert set(parsed) == {"type", "data"}
        return parsed["type"], parsed["data"]

    def until(self, kind: str, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
        """Everything up to and with the first message of this type that has these fields."""
        heard = []
        while True:
            heard.append(self.receive())
            name, data = heard[-1]
            if name == kind and fields.items() <= data.items():
                return heard

    def greet(self) -> list[tuple[str, dict[str, Any]]]:
        return self.until("feature_flags")

    def run(self, prompt: Any, **more: Any) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
        """Run a prompt as this client; its id, and what was heard up to its end marker."""
        prompt_id = post(self.server, prompt, client_id=self.client_id, **more)
        return prompt_id, self.until("executing", node=None, prompt_id=prompt_id)

    def silence(self, seconds: float) -> bool:
        """Whether nothing comes for a while."""
        self.socket.settimeout(seconds)
        with contextlib.suppress(websocket.WebSocketTimeoutException):
            self.socket.recv()
            return False
        self.socket.settimeout(10)
        return True

    def close(self) -> None:
        self.socket.close()


def decode_frame(frame: bytes) -> dict[str, Any]:
    event, second = struct.unpack(">II", frame[:8])
    if event == 1:
        return {"event": 1, "format": second, "magic": frame[8:12].hex()}
    text = frame[8 : 8 + second].decode()
    if event == 3:
        return {"event": 3, "node": text, "text": frame[8 + second :].decode(), "size": len(frame)}
    return {"event": event, "meta": json.loads(text), "magic": frame[8 + second :][:4].hex()}


@pytest.fixture
def client(server: SimulatorProcess) -> Iterator[Client]:
    opened = Client(server)
    opened.greet()
    yield opened
    opened.close()


def post(server: SimulatorProcess, prompt: Any, **more: Any) -> str:
    reply = requests.post(f"{server.base_url}/prompt", json={"prompt": prompt, **more}, timeout=10)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["prompt_id"])


def empty(colour: int | None = None) -> dict[str, Any]:
    """An EmptyImage that no test has used, so that nothing is cached by accident."""
    inputs = {"width": 64, "height": 64, "batch_size": 1, "color": colour or next(COLOURS)}
    return {"class_type": "EmptyImage", "inputs": inputs}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def save(source: str, prefix: str) -> dict[str, Any]:
    return node("SaveImage", images=[source, 0], filename_prefix=prefix)


def slow_graph(prefix: str, steps: int = 3, delay: float = 0.02, colour: int | None = None) -> dict[str, Any]:
    slow = node("T_Slow", image=["1", 0], steps=steps, delay=delay)
    return {"1": empty(colour), "2": slow, "3": save("2", prefix)}


def told(heard: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """A message in a word or two: its type, with the node it is about and the number of a binary frame."""
    lines = []
    for name, data in heard:
        if name == "BIN":
            lines.append(f"BIN{data['event']}")
        elif name in ("executing", "executed"):
            lines.append(f"{name} {data['node']}")
        elif name == STATES:
            lines.append("state " + " ".join(f"{key}:{entry['state'][0]}" for key, entry in data["nodes"].items()))
        elif name == "progress":
            lines.append(f"progress {data['value']}/{data['max']}")
        elif name == "status":
            lines.append(f"status {data['status']['exec_info']['queue_remaining']}")
        else:
            lines.append(name)
    return lines


def without_states(heard: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [line for line in told(heard) if not line.startswith(("state", "progress"))]


BEGIN = ["status 1", "status 1", "execution_start", "execution_cached"]
END = ["execution_success", "status 0", "executing None"]
CUT_SHORT = ["status 0", "executing None"]


def file_item(name: str, kind: str = "output") -> dict[str, str]:
    return {"filename": name, "subfolder": "" if kind == "temp" else "t", "type": kind}


def test_greeting(server: SimulatorProcess) -> None:
    client = Client(server, "abc")
    status, flags = client.greet()
    assert status == ("status", {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "abc"})
    assert flags == ("feature_flags", server.get("/features"))
    client.close()


def test_normal_run(client: Client) -> None:
    graph = slow_graph("t/normal")
    prompt_id, heard = client.run(graph)
    step = ["state 1:f 2:r", "BIN4"]
    assert told(heard) == [
        *BEGIN,
        *("state 1:r", "executing 1", "state 1:f"),
        *("state 1:f 2:r", "executing 2"),
        *(*step, "progress 1/3", *step, "progress 2/3", *step, "progress 3/3"),
        *("state 1:f 2:f", "state 1:f 2:f 3:r", "executing 3", "executed 3", "state 1:f 2:f 3:f"),
        *END,
    ]
    by_name = {name: data for name, data in heard if data.get("node", "") is not None}
    output = {"images": [file_item("normal_00001_.png")]}
    assert by_name["executing"] == {"node": "3", "display_node": "3", "prompt_id": prompt_id}
    assert by_name["executed"] == {"node": "3", "display_node": "3", "output": output, "prompt_id": prompt_id}
    assert by_name["progress"] == {"value": 3, "max": 3, "prompt_id": prompt_id, "node": "2"}
    assert set(by_name["execution_cached"]) == {"nodes", "prompt_id", "timestamp"}
    assert by_name["BIN"]["magic"].startswith("ffd8ff")
    ids = {"node_id": "2", "prompt_id": prompt_id, "display_node_id": "2", "parent_node_id": None, "real_node_id": "2"}
    assert by_name["BIN"]["meta"] == {**ids, "image_type": "image/jpeg"}
    running = {"value": 0.0, "max": 1.0, "state": "running", **ids, "node_id": "1", "display_node_id": "1"}
    first = next(data for name, data in heard if name == STATES)
    assert first == {"prompt_id": prompt_id, "nodes": {"1": {**running, "real_node_id": "1"}}}
    check_history(client, prompt_id, graph, output)


def check_history(client: Client, prompt_id: str, graph: Any, output: Any) -> None:
    entry = client.server.get(f"/history/{prompt_id}")[prompt_id]
    assert list(entry) == ["prompt", "outputs", "status", "meta"]
    extra = entry["prompt"][3]
    extra.pop("create_time", None)
    assert entry["prompt"][1:] == [prompt_id, graph, {"client_id": client.client_id}, ["3"]]
    assert entry["outputs"] == {"3": output}
    assert entry["meta"] == {"3": {"node_id": "3", "display_node": "3", "parent_node": None, "real_node_id": "3"}}
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("success", True)
    names = [name for name, _ in entry["status"]["messages"]]
    assert names == ["execution_start", "execution_cached", "execution_success"]


def test_fully_and_partly_cached(client: Client) -> None:
    graph = slow_graph("t/cache", steps=1)
    client.run(graph)
    _, heard = client.run(graph)
    assert told(heard) == [*BEGIN, "executed 3", "state 3:f", *END]
    assert heard[3][1]["nodes"] == ["1", "2", "3"]
    assert heard[4][1]["output"] == {"images": [file_item("cache_00001_.png")]}
    entry = heard[5][1]["nodes"]["3"]
    assert json.dumps([entry["value"], entry["max"]]) == "[1, 1]"
    _, heard = client.run({**graph, "3": save("2", "t/cache2")})
    assert told(heard) == [*BEGIN, "state 3:r", "executing 3", "executed 3", "state 3:f", *END]
    assert heard[3][1]["nodes"] == ["1", "2"]


def test_prompt_without_client_id(server: SimulatorProcess, client: Client) -> None:
    graph = slow_graph("t/anonymous", steps=2)
    prompt_id = post(server, graph)
    heard = client.until("status", status={"exec_info": {"queue_remaining": 0}})
    step = "state 1:f 2:r"
    assert told(heard) == [
        *("status 1", "status 1", "state 1:r", "state 1:f", step),
        *(step, "progress 1/2", "BIN1", step, "progress 2/2", "BIN1"),
        *("state 1:f 2:f", "state 1:f 2:f 3:r", "state 1:f 2:f 3:f", "status 0"),
    ]
    assert server.get(f"/history/{prompt_id}")[prompt_id]["outputs"]
    again = post(server, graph)
    heard = client.until("status", status={"exec_info": {"queue_remaining": 0}})
    assert told(heard) == ["status 1", "status 1", "state 3:f", "status 0"]
    # From 0.3.68 until mid 2026 a cached output is missing from history if nobody gave a client id.
    fixed = server.get("/system_stats")["system"]["comfyui_version"] == "0.3.64"
    outputs = server.get(f"/history/{again}")[again]["outputs"]
    assert outputs == ({"3": {"images": [file_item("anonymous_00001_.png")]}} if fixed else {})


@pytest.mark.parametrize(
    ("kind", "exception_type", "message"),
    [
        ("runtime", "RuntimeError", "boom\n"),
        (
            "oom",
            "torch.OutOfMemoryError",
            "Allocation on device\nThis error means you ran out of memory on your GPU.\n",
        ),
    ],
)
def test_node_exception(client: Client, kind: str, exception_type: str, message: str) -> None:
    graph = {
        "1": empty(),
        "2": node("T_Err", image=["1", 0], kind=kind),
        "3": save("2", "t/never"),
        "4": save("1", f"t/ok{kind}"),
    }
    prompt_id, heard = client.run(graph)
    assert without_states(heard) == [
        *BEGIN,
        *("executing 1", "executing 4", "executed 4", "executing 2", "execution_error"),
        *CUT_SHORT,
    ]
    error = next(data for name, data in heard if name == "execution_error")
    assert list(error) == [
        *("prompt_id", "node_id", "node_type", "executed", "exception_message", "exception_type", "traceback"),
        *("current_inputs", "current_outputs", "timestamp"),
    ]
    assert (error["node_id"], error["node_type"], error["exception_type"]) == ("2", "T_Err", exception_type)
    assert error["exception_message"].startswith(message)
    assert sorted(error["executed"]) == ["1", "4"]
    assert error["current_inputs"]["kind"] == [kind]
    assert error["current_inputs"]["image"][0].startswith("tensor([[[[")
    assert sorted(error["current_outputs"]) == ["1", "2", "3", "4"]
    assert all(isinstance(line, str) for line in error["traceback"])
    entry = client.server.get(f"/history/{prompt_id}")[prompt_id]
    assert entry["outputs"] == {"4": {"images": [file_item(f"ok{kind}_00001_.png")]}}
    assert entry["status"]["status_str"] == "error"
    assert entry["status"]["messages"][-1] == ["execution_error", error]


def test_interrupt(client: Client) -> None:
    url = f"{client.server.base_url}/interrupt"
    prompt_id = post(client.server, slow_graph("t/int", steps=400), client_id=client.client_id)
    heard = client.until("progress")
    requests.post(url, json={"prompt_id": str(uuid.uuid4())}, timeout=10)
    heard += client.until("progress")
    requests.post(url, json={"prompt_id": prompt_id}, timeout=10)
    heard += client.until("executing", node=None)
    quiet = [line for line in without_states(heard) if line != "BIN4"]
    assert quiet == [*BEGIN, "executing 1", "executing 2", "execution_interrupted", *CUT_SHORT]
    stopped = next(data for name, data in heard if name == "execution_interrupted")
    assert {**stopped, "timestamp": 0} == {
        "prompt_id": prompt_id,
        "node_id": "2",
        "node_type": "T_Slow",
        "executed": ["1"],
        "timestamp": 0,
    }
    # With nothing running the flag is set and forgotten: the next prompt is unharmed.
    requests.post(url, timeout=10)
    assert told(client.run(slow_graph("t/int2", steps=1))[1])[-3:] == END


def lazy_graph(prefix: str, pick: str, first: int, second: int) -> dict[str, Any]:
    """Node 3 takes the picture of node 1 or of node 2; the other one is not needed."""
    lazy = node("T_Lazy", pick=pick, a=["1", 0], b=["2", 0])
    return {"1": empty(first), "2": empty(second), "3": lazy, "4": save("3", prefix)}


def test_lazy_input(client: Client) -> None:
    graph = lazy_graph("t/l", "b", next(COLOURS), next(COLOURS))
    prompt_id, heard = client.run(graph)
    assert without_states(heard) == [
        *(*BEGIN, "executing 3", "executing 2", "executing 3", "executing 4", "executed 4"),
        *END,
    ]
    assert [line for line in told(heard) if line.startswith("state")] == [
        *("state 3:r", "state 3:r 2:r", "state 3:r 2:f", "state 3:r 2:f", "state 3:f 2:f"),
        *("state 3:f 2:f 4:r", "state 3:f 2:f 4:f"),
    ]
    visits = [data for name, data in heard if name == "executing" and data["node"] == "3"]
    assert visits == [{"node": "3", "display_node": "3", "prompt_id": prompt_id}] * 2
    output = {"images": [file_item("l_00001_.png")]}
    assert ("executed", {"node": "4", "display_node": "4", "output": output, "prompt_id": prompt_id}) in heard
    entry = client.server.get(f"/history/{prompt_id}")[prompt_id]
    assert entry["outputs"] == {"4": output}
    assert entry["status"]["completed"] is True
    config = client.server.get("/object_info/T_Lazy")["T_Lazy"]["input"]["required"]
    assert config["a"] == config["b"] == ["IMAGE", {"lazy": True}]


def test_lazy_input_and_the_cache(client: Client) -> None:
    first, second = next(COLOURS), next(COLOURS)
    client.run(lazy_graph("t/lc", "b", first, second))
    # Node 1 never ran, so nothing of it is kept.
    _, heard = client.run(lazy_graph("t/lc", "b", first, second))
    assert told(heard) == [*BEGIN, "executed 4", "state 4:f", *END]
    assert heard[3][1]["nodes"] == ["2", "3", "4"]
    _, heard = client.run(lazy_graph("t/lc", "a", first, second))
    assert heard[3][1]["nodes"] == ["2"]
    lazily = ["executing 3", "executing 1", "executing 3", "executing 4", "executed 4"]
    assert without_states(heard) == [*BEGIN, *lazily, *END]
    # Both pictures are there now. From 0.3.67 on the node has to ask all the same.
    _, heard = client.run(lazy_graph("t/lc", "b", first, second))
    assert heard[3][1]["nodes"] == ["1", "2"]
    version = client.server.get("/system_stats")["system"]["comfyui_version"]
    visits = ["executing 3"] * (1 if version == "0.3.64" else 2)
    assert without_states(heard) == [*BEGIN, *visits, "executing 4", "executed 4", *END]


def test_lazy_input_with_a_branch_behind_it(client: Client) -> None:
    """A branch joins whole when it is asked for, lazy nodes in it ask in turn, and a failure in it ends the prompt."""
    graph = {
        **lazy_graph("t/lb", "a", next(COLOURS), next(COLOURS)),
        "5": node("T_Lazy", pick="b", a=["6", 0], b=["3", 0]),
        "6": node("T_Err", image=["2", 0], kind="runtime"),
        "7": save("5", "t/lb2"),
    }
    del graph["4"]
    prompt_id, heard = client.run(graph)
    visited = ["executing 5", "executing 3", "executing 1", "executing 3", "executing 5", "executing 7", "executed 7"]
    assert without_states(heard) == [*BEGIN, *visited, *END]
    graph["5"]["inputs"]["pick"] = "a"
    prompt_id, heard = client.run(graph)
    visited = ["executing 5", "executing 2", "executing 6", "execution_error"]
    assert without_states(heard) == [*BEGIN, *visited, *CUT_SHORT]
    error = next(data for name, data in heard if name == "execution_error")
    assert (error["prompt_id"], error["node_id"], error["executed"]) == (prompt_id, "6", ["2"])


def test_expanded_graph(client: Client) -> None:
    graph = {"1": empty(), "2": node("T_Expand", image=["1", 0]), "4": save("2", "t/e")}
    prompt_id, heard = client.run(graph)
    assert told(heard) == [
        *BEGIN,
        *("state 1:r", "executing 1", "state 1:f", "state 1:f 2:r", "executing 2"),
        *("state 1:f 2:r 2.0.0.1:r", "executing 2.0.0.1", "state 1:f 2:r 2.0.0.1:f"),
        *("state 1:f 2:r 2.0.0.1:f 2.0.0.2:r", "executing 2.0.0.2", "state 1:f 2:r 2.0.0.1:f 2.0.0.2:f"),
        *("state 1:f 2:r 2.0.0.1:f 2.0.0.2:f 2.0.0.3:r", "executing 2.0.0.3", "executed 2.0.0.3"),
        "state 1:f 2:r 2.0.0.1:f 2.0.0.2:f 2.0.0.3:f",
        "state 1:f 2:f 2.0.0.1:f 2.0.0.2:f 2.0.0.3:f",
        *("state 1:f 2:f 2.0.0.1:f 2.0.0.2:f 2.0.0.3:f 4:r", "executing 4", "executed 4"),
        "state 1:f 2:f 2.0.0.1:f 2.0.0.2:f 2.0.0.3:f 4:f",
        *END,
    ]
    inner = next(data for name, data in heard if name == "executed")
    assert (inner["node"], inner["display_node"]) == ("2.0.0.3", "2")
    (item,) = inner["output"]["images"]
    assert item["type"] == "temp"
    assert item["filename"].startswith("ComfyUI_temp_")
    entry = client.server.get(f"/history/{prompt_id}")[prompt_id]
    assert entry["meta"]["2.0.0.3"] == {
        "node_id": "2.0.0.3",
        "display_node": "2",
        "parent_node": "2",
        "real_node_id": "2",
    }


def test_blocked_execution_is_not_the_end(client: Client) -> None:
    graph = {"1": empty(), "2": node("T_Block", image=["1", 0], message="blocked!"), "4": save("2", "t/b")}
    prompt_id, heard = client.run(graph)
    assert without_states(heard) == [
        *(*BEGIN, "executing 1", "executing 2", "executing 4", "execution_error"),
        *END,
    ]
    error = next(data for name, data in heard if name == "execution_error")
    assert {**error, "executed": sorted(error["executed"])} == {
        "prompt_id": prompt_id,
        "node_id": "4",
        "node_type": "SaveImage",
        "executed": ["1", "2"],
        "exception_message": "Execution Blocked: blocked!",
        "exception_type": "ExecutionBlocked",
        "traceback": [],
        "current_inputs": [],
        "current_outputs": [],
    }
    entry = client.server.get(f"/history/{prompt_id}")[prompt_id]
    assert entry["outputs"] == {}
    names = [name for name, _ in entry["status"]["messages"]]
    assert names == ["execution_start", "execution_cached", "execution_success"]


def test_background_nodes(client: Client) -> None:
    graph = {
        "1": empty(),
        "2": node("T_Async", image=["1", 0], delay=0.25),
        "3": node("T_Async", image=["1", 0], delay=0.05),
        "4": save("2", "t/a"),
        "5": save("3", "t/a2"),
    }
    _, heard = client.run(graph)
    assert without_states(heard) == [
        *(*BEGIN, "executing 1", "executing 2", "executing 3"),
        *("executing 5", "executed 5", "executing 4", "executed 4"),
        *END,
    ]


def test_images_over_the_websocket(server: SimulatorProcess, client: Client) -> None:
    graph = {"1": empty(), "2": node("SaveImageWebsocket", images=["1", 0])}
    prompt_id, heard = client.run(graph)
    body = ["state 1:r", "executing 1", "state 1:f", "state 1:f 2:r", "executing 2", "state 1:f 2:r"]
    assert told(heard) == [*BEGIN, *body, "BIN4", "progress 0/1", "state 1:f 2:f", *END]
    frame = next(data for name, data in heard if name == "BIN")
    assert (frame["meta"]["image_type"], frame["magic"]) == ("image/png", "89504e47")
    assert server.get(f"/history/{prompt_id}")[prompt_id]["outputs"] == {}
    plain = Client(server, features=False)
    graph["1"] = empty()
    _, heard = plain.run(graph)
    assert told(heard) == ["status 0", *BEGIN, *body, "progress 0/1", "BIN1", "state 1:f 2:f", *END]
    assert next(data for name, data in heard if name == "BIN")["format"] == 2
    # The other client hears of it by `status` only.
    assert told([client.receive() for _ in range(3)]) == ["status 1", "status 1", "status 0"]
    plain.close()


def test_progress_text(client: Client) -> None:
    graph = {"1": empty(), "2": node("T_Text", image=["1", 0], text="hello")}
    _, heard = client.run(graph)
    assert without_states(heard) == [*BEGIN, "executing 1", "executing 2", "BIN3", "executed 2", *END]
    frame = next(data for name, data in heard if name == "BIN")
    assert frame == {"event": 3, "node": "2", "text": "hello", "size": 14}


def test_returning_client_is_told_the_node(server: SimulatorProcess, client: Client) -> None:
    prompt_id = post(server, slow_graph("t/back", steps=60), client_id=client.client_id)
    client.until("progress", value=3)
    again = Client(server, client.client_id, features=False)
    status, executing = again.receive(), again.receive()
    assert (status[0], status[1]["sid"]) == ("status", client.client_id)
    assert executing == ("executing", {"node": "2"})
    again.until("progress")
    # The old socket stays open and hears nothing more (what it had not read yet is still there).
    while not client.silence(0.15):
        pass
    client.close()
    # Its closing takes the new entry with it: from now on the new socket is deaf for good.
    while not again.silence(0.15):
        pass
    while server.get("/prompt")["exec_info"]["queue_remaining"]:
        time.sleep(0.02)
    assert server.get(f"/history/{prompt_id}")[prompt_id]["status"]["completed"] is True
    assert again.silence(0.1)
    again.close()


def test_sockets_of_one_id_can_be_kept_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("kept")
    with simulator(root, "--simulate-test-nodes", "--simulate-no-socket-bug") as server:
        old = Client(server, "same")
        old.greet()
        new = Client(server, "same")
        new.greet()
        old.close()
        time.sleep(0.1)
        assert told(new.run(slow_graph("t/same", steps=1))[1])[-3:] == END
        new.close()


def test_no_replay_and_no_pings(client: Client) -> None:
    client.run(slow_graph("t/replay", steps=1))
    late = Client(client.server, client.client_id + "x")
    assert [name for name, _ in late.greet()] == ["status", "feature_flags"]
    assert late.silence(0.2)
    late.close()


def test_rejected_prompt_is_not_mentioned(server: SimulatorProcess, client: Client) -> None:
    reply = requests.post(f"{server.base_url}/prompt", json={"prompt": {}, "client_id": client.client_id}, timeout=10)
    assert reply.status_code == 400
    assert client.silence(0.2)


def test_output_that_is_not_json(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a socket it spoils the whole history; with one it ends the process."""
    graph = {"1": empty(), "2": node("T_NotJson", image=["1", 0])}
    with simulator(tmp_path_factory.mktemp("notjson"), "--simulate-test-nodes") as server:
        post(server, graph)
        while server.get("/prompt")["exec_info"]["queue_remaining"]:
            time.sleep(0.01)
        assert requests.get(f"{server.base_url}/history", timeout=10).status_code == 500
        client = Client(server)
        client.greet()
        graph["1"] = empty()
        post(server, graph, client_id=client.client_id)
        assert server.wait_exit() == 1
        client.close()
