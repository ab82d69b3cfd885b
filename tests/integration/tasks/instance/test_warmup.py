"""The warm-up of an instance: how it ends well, how it fails, and which files are no workflow."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from comfy.prompts.warm_up import load_workflow, warm_up
from core.errors import ComfylineError, ComfyUnavailable, ConfigurationError
from tests.comfy_target import picture, with_node, work
from tests.comfy_target import server as server
from tests.comfy_target import shared as shared
from tests.ports import free_port
from tests.simulator_process import SimulatorProcess, simulator
from tests.waiting import eventually

FAILED = "The warm-up workflow failed: "


def failure(base_url: str, graph: dict[str, Any], *, timeout_s: float = 20.0) -> ComfyUnavailable:
    with pytest.raises(ComfyUnavailable) as caught:
        warm_up(base_url, graph, timeout_s=timeout_s)
    assert caught.value.message.startswith(FAILED)
    assert isinstance(caught.value.__cause__, ComfylineError)
    return caught.value


def test_it_runs_to_its_end_and_says_how_long_it_took(server: SimulatorProcess) -> None:
    graph = work(0.6)
    before = json.dumps(graph)
    files_before = set(server.output_dir.rglob("*.png"))

    seconds = warm_up(server.base_url, graph, timeout_s=20)

    assert 0.6 <= seconds < 15
    assert json.dumps(graph) == before, "the graph given is not changed"
    [made] = set(server.output_dir.rglob("*.png")) - files_before
    assert made.parent == server.output_dir / "warmup"


def test_it_can_be_repeated(server: SimulatorProcess) -> None:
    graph = picture()
    warm_up(server.base_url, graph, timeout_s=20)
    warm_up(server.base_url, graph, timeout_s=20)


def test_a_node_that_raises_is_named(server: SimulatorProcess) -> None:
    error = failure(server.base_url, with_node("T_Err", kind="runtime"))
    assert error.message.startswith(f"{FAILED}node 2 (T_Err): ")


def test_memory_that_does_not_suffice_is_a_failure(server: SimulatorProcess) -> None:
    assert "node 2 (T_Err): " in failure(server.base_url, with_node("T_Err", kind="oom")).message


def test_a_node_that_this_comfyui_lacks_is_a_failure(server: SimulatorProcess) -> None:
    assert "NoSuchNode" in failure(server.base_url, with_node("NoSuchNode")).message


def test_one_that_takes_too_long_is_interrupted(server: SimulatorProcess) -> None:
    error = failure(server.base_url, work(60), timeout_s=0.5)
    assert "longer than 0.5 s" in error.message
    assert eventually(lambda: server.get("/queue")["queue_running"] == [])


def test_a_server_that_is_not_there_is_a_failure() -> None:
    failure(f"http://127.0.0.1:{free_port()}", picture())


def test_whoever_ends_the_instance_ends_its_warm_up(tmp_path: Path) -> None:
    with simulator(tmp_path) as server:
        errors: list[ComfyUnavailable] = []
        warming = threading.Thread(target=lambda: errors.append(failure(server.base_url, work(60), timeout_s=60)))
        warming.start()
        assert eventually(lambda: server.get("/queue")["queue_running"] != [])
        began_s = time.monotonic()

        server.kill()

        warming.join(30)
        assert len(errors) == 1
        assert time.monotonic() - began_s < 15


def test_a_workflow_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "warm.json"
    path.write_text(json.dumps(picture("a/b")))
    assert load_workflow(path)["3"]["inputs"]["filename_prefix"] == "a/b"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"nodes": [], "links": []}', "Export"),
        (b"[]", "API format"),
        (b"{}", "API format"),
        (b'{"prompt": {"1": {"class_type": "A", "inputs": {}}}}', "API format"),
        (b'{"1": {"class_type": "A"}}', "API format"),
    ],
)
def test_what_is_no_workflow_is_named(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "warm.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=problem) as caught:
        load_workflow(path)
    assert caught.value.message.startswith(f"COMFYLINE_WARMUP_WORKFLOW={path} ")


def test_a_workflow_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigurationError, match=f"COMFYLINE_WARMUP_WORKFLOW={path} cannot be read"):
            load_workflow(path)
