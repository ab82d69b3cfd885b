"""The simulator answers HTTP requests as recorded from ComfyUI 0.3.64 and 0.10.0: status, content type and body."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from tests.simulator_process import SimulatorProcess, simulator

EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 7}}
JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
SERVER_ERROR = "500 Internal Server Error\n\nServer got itself in trouble"


@pytest.fixture(scope="module", params=["0.3.64", "0.10.0"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    root = tmp_path_factory.mktemp("http")
    flags = ("--simulate-version", request.param, "--simulate-test-nodes", "--max-upload-size", "1")
    with simulator(root, *flags) as process:
        yield process


def version(server: SimulatorProcess) -> tuple[int, ...]:
    return tuple(int(part) for part in server.get("/system_stats")["system"]["comfyui_version"].split("."))


def save(link: Any, prefix: str = "h/x") -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": link, "filename_prefix": prefix}}


def picture(colour: str = "red", size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def post_prompt(server: SimulatorProcess, prompt: Any, **more: Any) -> requests.Response:
    return requests.post(f"{server.base_url}/prompt", json={"prompt": prompt, **more}, timeout=10)


def wait_idle(server: SimulatorProcess) -> None:
    for _ in range(2000):
        if server.get("/prompt")["exec_info"]["queue_remaining"] == 0:
            return
    raise AssertionError("the queue does not drain")


def assert_empty(reply: requests.Response, status: int) -> None:
    assert (reply.status_code, reply.content) == (status, b"")
    assert reply.headers.get("Content-Type") in (None, "application/octet-stream")


def assert_server_error(reply: requests.Response) -> None:
    assert (reply.status_code, reply.headers["Content-Type"], reply.text) == (500, TEXT, SERVER_ERROR)


def plain_error(kind: str, message: str, details: str = "") -> dict[str, Any]:
    return {"error": {"type": kind, "message": message, "details": details, "extra_info": {}}, "node_errors": {}}


def output_error(details: str, node_errors: dict[str, Any]) -> dict[str, Any]:
    body = plain_error("prompt_outputs_failed_validation", "Prompt outputs failed validation", details)
    return {**body, "node_errors": node_errors}


def node_error(class_type: str, output: str, *errors: dict[str, Any]) -> dict[str, Any]:
    return {"errors": list(errors), "dependent_outputs": [output], "class_type": class_type}


def own_error(kind: str, message: str, details: str, **extra_info: Any) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


WIDTH = ["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}]
NO_OUTPUTS = plain_error("prompt_no_outputs", "Prompt has no outputs")
BAD_LINK = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
MISMATCH = "samples, received_type(IMAGE) mismatch input_type(LATENT)"
MISSING_FILE = own_error(
    "custom_validation_failed",
    "Custom validation failed for node",
    "image - Invalid image file: zzz.png",
    input_name="image",
)

REFUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "empty prompt": ({}, NO_OUTPUTS),
    "prompt list": ([], NO_OUTPUTS),
    "no output nodes": ({"1": EMPTY}, NO_OUTPUTS),
    "unknown class": (
        {"1": {"class_type": "Nope", "inputs": {}}},
        plain_error("invalid_prompt", "Cannot execute because node Nope does not exist.", "Node ID '#1'"),
    ),
    "missing class_type": (
        {"1": {"inputs": {}}},
        plain_error(
            "invalid_prompt", "Cannot execute because a node is missing the class_type property.", "Node ID '#1'"
        ),
    ),
    "bad link length": (
        {"1": EMPTY, "2": save(["1"])},
        output_error(
            f"{BAD_LINK}: images",
            {
                "2": node_error(
                    "SaveImage",
                    "2",
                    own_error(
                        "bad_linked_input",
                        BAD_LINK,
                        "images",
                        input_name="images",
                        input_config=["IMAGE", {"tooltip": "The images to save."}],
                        received_value=["1"],
                    ),
                )
            },
        ),
    ),
    "type mismatch": (
        {
            "1": EMPTY,
            "2": {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "l"}},
        },
        output_error(
            f"Return type mismatch between linked nodes: {MISMATCH}",
            {
                "2": node_error(
                    "SaveLatent",
                    "2",
                    own_error(
                        "return_type_mismatch",
                        "Return type mismatch between linked nodes",
                        MISMATCH,
                        input_name="samples",
                        input_config=["LATENT", {}],
                        received_type="IMAGE",
                        linked_node=["1", 0],
                    ),
                )
            },
        ),
    ),
    "over the maximum": (
        {"1": {**EMPTY, "inputs": {**EMPTY["inputs"], "width": 999999}}, "2": save(["1", 0])},  # type: ignore[dict-item]
        output_error(
            "",
            {
                "1": node_error(
                    "EmptyImage",
                    "2",
                    own_error(
                        "value_bigger_than_max",
                        "Value 999999 bigger than max of 16384",
                        "width",
                        input_name="width",
                        input_config=WIDTH,
                        received_value=999999,
                    ),
                )
            },
        ),
    ),
    "no number": (
        {"1": {**EMPTY, "inputs": {**EMPTY["inputs"], "width": "abc"}}, "2": save(["1", 0])},  # type: ignore[dict-item]
        output_error(
            "",
            {
                "1": node_error(
                    "EmptyImage",
                    "2",
                    own_error(
                        "invalid_input_type",
                        "Failed to convert an input value to a INT value",
                        "width, abc, invalid literal for int() with base 10: 'abc'",
                        input_name="width",
                        input_config=WIDTH,
                        received_value="abc",
                        exception_message="invalid literal for int() with base 10: 'abc'",
                    ),
                )
            },
        ),
    ),
    "file not there": (
        {"1": {"class_type": "LoadImage", "inputs": {"image": "zzz.png"}}, "2": save(["1", 0])},
        output_error("", {"1": node_error("LoadImage", "2", MISSING_FILE)}),
    ),
    "cycle": (
        {
            "1": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
            "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
            "3": save(["1", 0]),
        },
        output_error("", {}),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_graphs(server: SimulatorProcess, name: str) -> None:
    graph, expected = REFUSED[name]
    reply = post_prompt(server, graph)
    assert (reply.status_code, reply.headers["Content-Type"]) == (400, JSON)
    assert reply.json() == expected


def test_missing_inputs_are_named_one_by_one(server: SimulatorProcess) -> None:
    reply = post_prompt(server, {"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}, "2": save(["1", 0])})
    body = reply.json()
    errors = body["node_errors"]["1"].pop("errors")
    assert body == output_error("", {"1": {"dependent_outputs": ["2"], "class_type": "EmptyImage"}})
    expected = [
        own_error("required_input_missing", "Required input is missing", name, input_name=name)
        for name in ("batch_size", "color", "height")
    ]
    assert sorted(errors, key=lambda error: str(error["details"])) == expected


@pytest.mark.parametrize(
    ("graph", "node_id", "details"),
    [
        ({"1": {"class_type": "SaveImage"}}, "1", "'inputs'"),
        ({"2": save(["9", 0])}, "2", "'9'"),
    ],
    ids=["no inputs key", "link to an absent node"],
)
def test_validation_that_raises(server: SimulatorProcess, graph: Any, node_id: str, details: str) -> None:
    body = post_prompt(server, graph).json()
    error = body["node_errors"][node_id]["errors"][0]
    trace = error["extra_info"].pop("traceback")
    assert trace
    assert all(isinstance(line, str) for line in trace)
    expected = own_error(
        "exception_during_validation", "Exception when validating node", details, exception_type="KeyError"
    )
    assert body == output_error(
        f"Exception when validating node: {details}", {node_id: node_error("SaveImage", node_id, expected)}
    )


def test_model_that_is_not_there(server: SimulatorProcess) -> None:
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
        "2": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": save(["2", 0]),
    }
    body = post_prompt(server, graph).json()
    choices = server.get("/models/checkpoints")
    expected = own_error(
        "value_not_in_list",
        "Value not in list",
        f"ckpt_name: 'x.safetensors' not in {choices}",
        input_name="ckpt_name",
        input_config=[choices, {"tooltip": "The name of the checkpoint (model) to load."}],
        received_value="x.safetensors",
    )
    assert body == output_error("", {"1": node_error("CheckpointLoaderSimple", "4", expected)})


def test_no_prompt_key(server: SimulatorProcess) -> None:
    reply = requests.post(f"{server.base_url}/prompt", json={"x": 1}, timeout=10)
    assert reply.status_code == 400
    assert reply.json() == plain_error("no_prompt", "No prompt provided", "No prompt provided")


@pytest.mark.parametrize("body", ["{bad", "[1]", '{"prompt": [1]}'])
def test_malformed_bodies_are_server_errors(server: SimulatorProcess, body: str) -> None:
    assert_server_error(requests.post(f"{server.base_url}/prompt", data=body, timeout=10))


def test_partly_valid_graph_runs_the_valid_part(server: SimulatorProcess) -> None:
    graph = {
        "1": EMPTY,
        "2": save(["1", 0], "part/a"),
        "7": {"class_type": "LoadImage", "inputs": {"image": "zzz.png"}},
        "8": save(["7", 0]),
    }
    reply = post_prompt(server, graph)
    assert reply.status_code == 200
    assert reply.json()["node_errors"] == {"7": node_error("LoadImage", "8", MISSING_FILE)}
    wait_idle(server)
    entry = server.get(f"/history/{reply.json()['prompt_id']}")[reply.json()["prompt_id"]]
    assert entry["prompt"][4] == ["2"]
    assert entry["outputs"] == {"2": {"images": [{"filename": "a_00001_.png", "subfolder": "part", "type": "output"}]}}


def test_rubbish_that_no_output_needs_does_no_harm(server: SimulatorProcess) -> None:
    graph = {
        "1": EMPTY,
        "2": save(["1", 0], "rubbish/x"),
        "3": {"class_type": "ImageInvert", "inputs": {"image": ["4", 0]}},
        "4": {"class_type": "ImageInvert", "inputs": {"image": ["3", 0]}},
        "5": {"class_type": "ImageInvert", "inputs": {"image": ["absent", 0]}},
        "6": {"class_type": "ImageInvert"},
        "7": {"class_type": "LoadImage", "inputs": {}},
        "8": {"class_type": "ImageInvert", "inputs": []},
    }
    reply = post_prompt(server, graph)
    assert (reply.status_code, reply.json()["node_errors"]) == (200, {})
    wait_idle(server)
    prompt_id = reply.json()["prompt_id"]
    assert server.get(f"/history/{prompt_id}")[prompt_id]["status"]["completed"] is True


def test_partial_targets(server: SimulatorProcess) -> None:
    graph = {"1": EMPTY, "2": save(["1", 0], "pt/p1"), "3": save(["1", 0], "pt/p2")}
    prompt_id = post_prompt(server, graph, partial_execution_targets=["3"]).json()["prompt_id"]
    wait_idle(server)
    assert set(server.get(f"/history/{prompt_id}")[prompt_id]["outputs"]) == {"3"}
    refused = post_prompt(server, graph, partial_execution_targets=["99"])
    assert (refused.status_code, refused.json()) == (400, NO_OUTPUTS)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (None, "None"),
        ("abc", "abc"),
        ("", ""),
        (123, "123"),
        ("976FEE04-C955-4BC1-898A-77ACF3034D38", "976FEE04-C955-4BC1-898A-77ACF3034D38"),
    ],
)
def test_any_prompt_id_becomes_text(server: SimulatorProcess, given: Any, used: str) -> None:
    reply = post_prompt(server, {"1": EMPTY, "2": save(["1", 0])}, prompt_id=given)
    assert reply.json()["prompt_id"] == used
    wait_idle(server)
    if used:
        assert list(server.get(f"/history/{used}")) == [used]


def test_numbers(server: SimulatorProcess) -> None:
    graph = {"1": EMPTY, "2": save(["1", 0])}
    first = post_prompt(server, graph).json()["number"]
    assert post_prompt(server, graph, number="5").text.count('"number": 5.0') == 1
    assert post_prompt(server, graph, number=-3).json()["number"] == -3.0
    assert_server_error(post_prompt(server, graph, number="x"))
    assert_server_error(post_prompt(server, graph, number=None))
    # The counter did not move for prompts that brought their own number; it does for `front`, with a minus.
    assert post_prompt(server, graph, front=True).json()["number"] == -(first + 1)
    post_prompt(server, {})
    assert post_prompt(server, graph).json()["number"] == first + 3


def slow(delay_s: float, colour: int, steps: int = 1) -> dict[str, Any]:
    return {
        "1": {**EMPTY, "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": colour}},
        "2": {"class_type": "T_Slow", "inputs": {"image": ["1", 0], "steps": steps, "delay": delay_s}},
        "3": save(["2", 0], f"slow/{colour}"),
    }


def test_queue_order_and_deletion(server: SimulatorProcess) -> None:
    wait_idle(server)
    running = post_prompt(server, slow(0.6, 1)).json()["prompt_id"]
    while not server.get("/queue")["queue_running"]:
        pass
    for name, options in {"a": 50, "b": 51, "e": 0.5, "f": -1000, "c": -52, "d": -53, "g": 54}.items():
        post_prompt(server, {"1": EMPTY, "2": save(["1", 0], f"q/{name}")}, prompt_id=name, number=options)
    queue = server.get("/queue")
    assert [len(item) for item in queue["queue_running"] + queue["queue_pending"]] == [5] * 8
    # The array of a binary heap, as it comes: the smallest is first, the rest is not in order.
    assert [item[1] for item in queue["queue_pending"]] == ["f", "c", "d", "b", "e", "a", "g"]
    url = f"{server.base_url}/queue"
    assert_empty(requests.post(url, json={"delete": ["g"]}, timeout=10), 200)
    assert_empty(requests.post(url, json={"delete": [running, "unknown"]}, timeout=10), 200)
    assert server.get("/prompt")["exec_info"]["queue_remaining"] == 7
    assert server.get("/history/g") == {}
    wait_idle(server)
    assert [key for key in server.get("/history") if key in "abcdefg" and key][-6:] == ["f", "d", "c", "e", "a", "b"]


def test_clear_queue(server: SimulatorProcess) -> None:
    wait_idle(server)
    post_prompt(server, slow(0.3, 2))
    post_prompt(server, slow(0.0, 3), prompt_id="cleared")
    assert_empty(requests.post(f"{server.base_url}/queue", json={"clear": True}, timeout=10), 200)
    assert server.get("/queue")["queue_pending"] == []
    wait_idle(server)
    assert server.get("/history/cleared") == {}


def test_same_id_and_number_twice(server: SimulatorProcess) -> None:
    """From 0.3.69 on the creation time makes the two differ, and dicts cannot be compared."""
    wait_idle(server)
    post_prompt(server, slow(0.4, 4))
    while not server.get("/queue")["queue_running"]:
        pass
    graph = {"1": EMPTY, "2": save(["1", 0], "dup/x")}
    replies = [post_prompt(server, graph, prompt_id="twice", number=5)]
    # Creation times are in milliseconds: equal ones would make the two prompts equal, and equal tuples just tie.
    time.sleep(0.002)
    replies.append(post_prompt(server, graph, prompt_id="twice", number=5))
    assert replies[0].status_code == 200
    if version(server) < (0, 3, 69):
        assert replies[1].status_code == 200
    else:
        assert_server_error(replies[1])
    wait_idle(server)
    assert server.get("/history/twice")["twice"]["status"]["completed"] is True


def test_commands_without_a_good_body(server: SimulatorProcess) -> None:
    url = server.base_url
    assert_empty(requests.post(f"{url}/interrupt", data="{bad", timeout=10), 200)
    assert_empty(requests.post(f"{url}/interrupt", timeout=10), 200)
    assert_server_error(requests.post(f"{url}/interrupt", json=[1], timeout=10))
    assert_server_error(requests.post(f"{url}/queue", data="{bad", timeout=10))
    assert_empty(requests.post(f"{url}/free", json={"unload_models": True, "free_memory": True}, timeout=10), 200)
    assert_server_error(requests.post(f"{url}/free", timeout=10))


def test_history_queries(server: SimulatorProcess) -> None:
    for number in range(3):
        post_prompt(server, {"1": EMPTY, "2": save(["1", 0])}, prompt_id=f"hist{number}")
    wait_idle(server)
    ids = list(server.get("/history"))
    assert ids[-3:] == ["hist0", "hist1", "hist2"]
    assert list(server.get("/history?max_items=2")) == ids[-2:]
    assert list(server.get("/history?max_items=2&offset=0")) == ids[:2]
    assert_server_error(requests.get(f"{server.base_url}/history?max_items=x", timeout=10))
    assert server.get("/history/unknown") == {}
    assert_empty(requests.post(f"{server.base_url}/history", json={"delete": ["hist1"]}, timeout=10), 200)
    assert server.get("/history/hist1") == {}


def upload(
    server: SimulatorProcess, data: bytes, name: str = "u.png", route: str = "image", **form: str
) -> requests.Response:
    files = {"image": (name, data)}
    return requests.post(f"{server.base_url}/upload/{route}", files=files, data=form, timeout=10)


def test_uploads(server: SimulatorProcess) -> None:
    red, blue = picture("red"), picture("blue")
    assert upload(server, red).json() == {"name": "u.png", "subfolder": "", "type": "input"}
    assert upload(server, red).json()["name"] == "u.png"
    assert upload(server, blue).json()["name"] == "u (1).png"
    assert upload(server, blue).json()["name"] == "u (1).png"
    assert upload(server, blue, overwrite="true").json()["name"] == "u.png"
    assert (server.input_dir / "u.png").read_bytes() == blue
    assert upload(server, red, subfolder="a/b").json() == {"name": "u.png", "subfolder": "a/b", "type": "input"}
    assert upload(server, red, type="temp").json() == {"name": "u.png", "subfolder": "", "type": "temp"}
    assert upload(server, b"hello", "a.bin").json()["name"] == "a.bin"
    assert_server_error(upload(server, red, type="bogus"))
    assert_empty(upload(server, red, subfolder="../.."), 400)
    assert_empty(upload(server, red, "../../x.png"), 400)
    assert_empty(requests.post(f"{server.base_url}/upload/image", files={"other": ("x.png", red)}, timeout=10), 400)
    assert_empty(requests.post(f"{server.base_url}/upload/image", json={}, timeout=10), 400)


def test_masks(server: SimulatorProcess) -> None:
    upload(server, picture("red"), "orig.png")
    mask = picture((0, 0, 0, 100), mode="RGBA")  # type: ignore[arg-type]
    original = json.dumps({"filename": "orig.png", "type": "input"})
    reply = upload(server, mask, "m.png", "mask", original_ref=original, subfolder="clip")
    assert reply.json() == {"name": "m.png", "subfolder": "clip", "type": "input"}
    with Image.open(server.input_dir / "clip" / "m.png") as stored:
        assert stored.getpixel((0, 0)) == (255, 0, 0, 100)
    reply = upload(server, mask, "m2.png", "mask", original_ref=json.dumps({"filename": "no.png", "type": "input"}))
    assert reply.json() == {"name": "m2.png", "subfolder": "", "type": "input"}
    assert not (server.input_dir / "m2.png").exists()
    assert_server_error(upload(server, mask, "m3.png", "mask"))


def view(server: SimulatorProcess, **query: str) -> requests.Response:
    return requests.get(f"{server.base_url}/view", params=query, timeout=10)


def test_view(server: SimulatorProcess) -> None:
    data = picture("green")
    upload(server, data, "v.png", overwrite="1")
    upload(server, b"hello", "v.bin", overwrite="1")
    for query in ({"filename": "v.png", "type": "input"}, {"filename": "v.png [input]"}):
        reply = view(server, **query)
        assert (reply.status_code, reply.headers["Content-Type"], reply.content) == (200, "image/png", data)
        assert reply.headers["Content-Disposition"] == 'filename="v.png"'
    assert view(server, filename="some/where/v.png", type="input").content == data
    reply = view(server, filename="v.bin", type="input")
    assert (reply.headers["Content-Type"], reply.content) == ("application/octet-stream", b"hello")
    url = f"{server.base_url}/view?filename=v.png&type=input"
    part = requests.get(url, headers={"Range": "bytes=0-9"}, timeout=10)
    assert (part.status_code, part.content) == (206, data[:10])
    head = requests.head(url, timeout=10)
    assert (head.status_code, head.headers["Content-Type"], head.content) == (200, "image/png", b"")


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ({"preview": "webp;90"}, "image/webp"),
        ({"preview": "jpeg"}, "image/jpeg"),
        ({"preview": "png"}, "image/webp"),
        ({"channel": "rgb"}, "image/png"),
        ({"channel": "a"}, "image/png"),
    ],
)
def test_converted_views(server: SimulatorProcess, query: dict[str, str], kind: str) -> None:
    upload(server, picture("green"), "c.png", overwrite="1")
    reply = view(server, filename="c.png", type="input", **query)
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, kind)
    assert reply.headers["Content-Disposition"] == 'filename="c.png"'
    with Image.open(io.BytesIO(reply.content)) as shown:
        assert shown.size == (4, 4)
        assert f"image/{(shown.format or '').lower()}" == kind


def test_refused_views(server: SimulatorProcess) -> None:
    upload(server, b"hello", "r.bin", overwrite="1")
    assert_empty(view(server, filename="absent.png"), 404)
    assert_empty(view(server), 404)
    assert_empty(view(server, filename="../x.png"), 400)
    assert_empty(view(server, filename="/etc/passwd"), 400)
    assert_empty(view(server, filename="x.png", type="bogus"), 400)
    assert_empty(view(server, filename="x.png", subfolder="../../.."), 403)
    assert_server_error(view(server, filename="r.bin", type="input", preview="webp"))


def with_headers(server: SimulatorProcess, **headers: str) -> int:
    """A GET with these headers and no others but what HTTP needs; requests would add its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.putrequest("GET", "/prompt", skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        return connection.getresponse().status


def test_origins(server: SimulatorProcess) -> None:
    assert with_headers(server, Origin="http://evil.example") == 403
    assert with_headers(server, Origin=f"http://127.0.0.1:{server.port}") == 200
    assert with_headers(server, Origin=f"http://127.0.0.1:{server.port + 1}") == 403
    assert with_headers(server, Origin="null") == 200
    assert with_headers(server, Host="gpu.example", Origin="http://evil.example") == 200
    assert with_headers(server, Sec_Fetch_Site="cross-site") == 200
    assert_empty(requests.get(f"{server.base_url}/prompt", headers={"Origin": "http://evil.example"}, timeout=10), 403)
    assert_empty(requests.options(f"{server.base_url}/prompt", timeout=10), 200)


def test_twins_below_api(server: SimulatorProcess) -> None:
    assert server.get("/api/prompt") == {"exec_info": {"queue_remaining": 0}}
    for path in ("/api/internal/logs", "/jobs", "/nowhere"):
        reply = requests.get(f"{server.base_url}{path}", timeout=10)
        assert (reply.status_code, reply.headers["Content-Type"], reply.content) == (
            404,
            "application/octet-stream",
            b"",
        )
    assert requests.post(f"{server.base_url}/nowhere", timeout=10).status_code == 405
    assert set(server.get("/internal/logs/raw")["entries"][0]) == {"t", "m"}
    assert isinstance(server.get("/internal/folder_paths")["checkpoints"][0], str)
    assert requests.get(f"{server.base_url}/internal/files/bogus", timeout=10).status_code == 400


def test_information(server: SimulatorProcess) -> None:
    stats = server.get("/system_stats")
    newer = version(server) >= (0, 10, 0)
    assert stats["system"]["os"] == ("linux" if newer else "posix")
    assert stats["system"]["simulated"] is True
    assert "SIMULATED" in stats["devices"][0]["name"]
    assert set(stats["devices"][0]) >= {
        "type",
        "index",
        "vram_total",
        "vram_free",
        "torch_vram_total",
        "torch_vram_free",
    }
    features = {"supports_preview_metadata": True, "max_upload_size": 1048576}
    manager = {"extension": {"manager": {"supports_v4": True}}} if newer else {}
    assert server.get("/features") == {**features, **manager}
    folders = server.get("/models")
    assert len(json.dumps(folders)) == (315 if newer else 290)
    assert_empty(requests.get(f"{server.base_url}/models/nope", timeout=10), 404)
    assert server.get("/embeddings") == []


def test_object_info(server: SimulatorProcess) -> None:
    assert server.get("/object_info/Nope") == {}
    tooltip = (
        "The prefix for the file to save. This may include formatting information such as %date:yyyy-MM-dd% or "
        "%Empty Latent Image.width% to include values from nodes."
    )
    expected = {
        "input": {
            "required": {
                "images": ["IMAGE", {"tooltip": "The images to save."}],
                "filename_prefix": ["STRING", {"default": "ComfyUI", "tooltip": tooltip}],
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        },
        "input_order": {"required": ["images", "filename_prefix"], "hidden": ["prompt", "extra_pnginfo"]},
        "output": [],
        "output_is_list": [],
        "output_name": [],
        "name": "SaveImage",
        "display_name": "Save Image",
        "description": "Saves the input images to your ComfyUI output directory.",
        "python_module": "nodes",
        "category": "image",
        "output_node": True,
    }
    reply = requests.get(f"{server.base_url}/object_info/SaveImage", timeout=10)
    assert json.dumps(reply.json()) == json.dumps({"SaveImage": expected})
    everything = server.get("/object_info")
    assert all(name == info["name"] and "required" in info["input"] for name, info in everything.items())


def test_jobs_api(server: SimulatorProcess) -> None:
    if version(server) < (0, 6, 0):
        for path in ("/api/jobs", "/api/jobs/none", "/api/jobs?status=bogus"):
            reply = requests.get(f"{server.base_url}{path}", timeout=10)
            assert (reply.status_code, reply.headers["Content-Type"]) == (404, "application/octet-stream")
        return
    prompt_id = post_prompt(server, {"1": EMPTY, "2": save(["1", 0], "job/f")}).json()["prompt_id"]
    wait_idle(server)
    page = server.get("/api/jobs?limit=2")
    assert page["pagination"]["limit"] == 2
    assert set(page["pagination"]) == {"offset", "limit", "total", "has_more"}
    job = page["jobs"][0]
    assert list(job) == [
        "id",
        "status",
        "priority",
        "create_time",
        "outputs_count",
        "execution_start_time",
        "execution_end_time",
        "preview_output",
    ]
    file_item = {"filename": "f_00001_.png", "subfolder": "job", "type": "output"}
    assert (job["id"], job["status"], job["outputs_count"]) == (prompt_id, "completed", 1)
    assert job["preview_output"] == {**file_item, "nodeId": "2", "mediaType": "images"}
    detail = server.get(f"/api/jobs/{prompt_id}")
    assert detail["outputs"] == {"2": {"images": [file_item]}}
    assert detail["workflow"]["prompt"]["1"] == EMPTY
    reply = requests.get(f"{server.base_url}/api/jobs?status=bogus", timeout=10)
    text = "Invalid status value(s): bogus. Valid values: pending, in_progress, completed, failed, cancelled"
    assert (reply.status_code, reply.json()) == (400, {"error": text})
    reply = requests.get(f"{server.base_url}/api/jobs/none", timeout=10)
    assert (reply.status_code, reply.json()) == (404, {"error": "Job not found"})
    # The cancel route is newer than both.
    assert requests.post(f"{server.base_url}/api/jobs/{prompt_id}/cancel", timeout=10).status_code == 405


def test_interrupted_job_is_cancelled(server: SimulatorProcess) -> None:
    wait_idle(server)
    prompt_id = post_prompt(server, slow(0.05, 9, steps=100)).json()["prompt_id"]
    while not server.get("/queue")["queue_running"]:
        pass
    assert_empty(requests.post(f"{server.base_url}/interrupt", json={"prompt_id": "other"}, timeout=10), 200)
    assert server.get("/prompt")["exec_info"]["queue_remaining"] == 1
    assert_empty(requests.post(f"{server.base_url}/interrupt", json={"prompt_id": prompt_id}, timeout=10), 200)
    wait_idle(server)
    status = server.get(f"/history/{prompt_id}")[prompt_id]["status"]
    assert (status["status_str"], status["completed"]) == ("error", False)
    assert [name for name, _ in status["messages"]][-1] == "execution_interrupted"
    if version(server) >= (0, 9, 0):
        job = server.get("/api/jobs?status=failed,cancelled&limit=1")["jobs"][0]
        assert (job["id"], job["status"], job["outputs_count"]) == (prompt_id, "cancelled", 0)
        assert "preview_output" not in job


@pytest.mark.parametrize("path", ["/prompt", "/upload/image"])
def test_too_large(server: SimulatorProcess, path: str) -> None:
    """A little over 1 MB, so that the whole body is on its way before the server gives up."""
    size = 1048576 + 20
    boundary = urllib.parse.quote("frontier")
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'.encode()
    body = part + b"x" * (size - len(part))
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        reply = connection.getresponse()
        text = reply.read().decode()
    assert (reply.status, reply.getheader("Content-Type")) == (413, TEXT)
    start, _, actual = text.rpartition(" ")
    assert start == "Maximum request body size 1048576 exceeded, actual body size"
    assert int(actual) > 1048576
