"""The newest release as the simulator plays it, and the oldest beside it where they differ."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from comfy.simulator.machine.versions import NEWEST
from tests.simulator_process import SimulatorProcess, simulator
from tests.waiting import until

#: The same in every process of a run: tests are named by it.
SOME_ID = "3f0c9c1e-8a54-4d0b-9c7f-2f6b1c1f7a10"
EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 7}}


def save(link: Any, prefix: str = "n/x") -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": link, "filename_prefix": prefix}}


def invert(link: Any) -> dict[str, Any]:
    return {"class_type": "ImageInvert", "inputs": {"image": link}}


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    flags = ("--simulate-version", "newest", "--simulate-gpus", "2", "--max-upload-size", "1.5")
    with simulator(tmp_path_factory.mktemp("newest"), *flags) as process:
        yield process


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    flags = ("--simulate-version", "0.3.45", "--simulate-gpus", "2")
    with simulator(tmp_path_factory.mktemp("oldest"), *flags) as process:
        yield process


def post(server: SimulatorProcess, prompt: Any, **more: Any) -> requests.Response:
    headers = more.pop("headers", None)
    return requests.post(f"{server.base_url}/prompt", json={"prompt": prompt, **more}, headers=headers, timeout=10)


def ran(server: SimulatorProcess, prompt: Any, **more: Any) -> dict[str, Any]:
    """Run a prompt to its end, and return its entry of the history."""
    prompt_id = post(server, prompt, **more).json()["prompt_id"]
    until(lambda: prompt_id in server.get(f"/history/{prompt_id}"), what="the end of the prompt")
    entry: dict[str, Any] = server.get(f"/history/{prompt_id}")[prompt_id]
    return entry


def test_it_says_what_it_is_and_that_it_is_simulated(newest: SimulatorProcess) -> None:
    system = newest.get("/system_stats")["system"]
    assert (system["comfyui_version"], system["simulated"]) == (NEWEST, True)
    assert {"comfy_package_versions", "deploy_environment"} <= system.keys()
    assert f"SIMULATED ComfyUI {NEWEST}" in newest.log()
    features = newest.get("/features")
    assert (features["node_replacements"], features["assets"]) == (True, False)
    # A fraction, as Python multiplies what the command line gave.
    assert json.dumps(features["max_upload_size"]) == "1572864.0"


def test_a_process_lists_all_its_gpus_and_an_older_one_the_first(
    newest: SimulatorProcess, oldest: SimulatorProcess
) -> None:
    devices = newest.get("/system_stats")["devices"]
    assert [device["index"] for device in devices] == [0, 1]
    assert [device["name"][:22] for device in devices] == ["cuda:0 SIMULATED GPU :", "cuda:1 SIMULATED GPU :"]
    assert len(oldest.get("/system_stats")["devices"]) == 1


@pytest.mark.parametrize("given", ["mine", "", 7, SOME_ID.upper(), SOME_ID.replace("-", ""), f"{{{SOME_ID}}}"])
def test_a_prompt_id_is_a_uuid_as_python_writes_it(newest: SimulatorProcess, given: Any) -> None:
    reply = post(newest, {"1": EMPTY, "2": save(["1", 0])}, prompt_id=given)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["type"], error["message"]) == ("invalid_prompt_id", "prompt_id must be a valid UUID")
    assert reply.json()["node_errors"] == {}


def test_null_is_no_prompt_id_and_was_one(newest: SimulatorProcess, oldest: SimulatorProcess) -> None:
    graph = {"1": EMPTY, "2": save(["1", 0])}
    assert uuid.UUID(post(newest, graph, prompt_id=None).json()["prompt_id"])
    assert post(oldest, graph, prompt_id=None).json()["prompt_id"] == "None"


def test_classes_are_replaced_before_a_graph_is_checked(newest: SimulatorProcess, oldest: SimulatorProcess) -> None:
    listed = newest.get("/node_replacements")
    assert listed["T2IAdapterLoader"][0]["new_node_id"] == "ControlNetLoader"
    assert requests.get(f"{oldest.base_url}/node_replacements", timeout=10).status_code == 404
    uploaded = requests.post(
        f"{newest.base_url}/upload/image", files={"image": ("a.png", _png(), "image/png")}, timeout=10
    ).json()["name"]
    old = {"class_type": "SimulatedLoadMaskAndImage", "inputs": {"picture": uploaded, "gone": 1}}
    graph = {"1": old, "2": save(["1", 1]), "3": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}
    entry = ran(newest, graph)
    assert entry["status"]["status_str"] == "success"
    # What no mapping names is dropped, and links point to where the outputs are now.
    assert entry["prompt"][2]["1"] == {"class_type": "LoadImage", "inputs": {"image": uploaded}}
    assert entry["prompt"][2]["2"]["inputs"]["images"] == ["1", 0]
    assert post(oldest, graph).json()["error"]["type"] == "invalid_prompt"


def test_a_replacement_that_misses_an_input_is_a_server_error(newest: SimulatorProcess) -> None:
    assert post(newest, {"1": {"class_type": "T2IAdapterLoader", "inputs": {}}}).status_code == 500


def test_a_cycle_is_named(newest: SimulatorProcess, oldest: SimulatorProcess) -> None:
    graph = {"1": invert(["2", 0]), "2": invert(["1", 0]), "3": save(["2", 0])}
    reply = post(newest, graph)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "prompt_outputs_failed_validation")
    node_errors = reply.json()["node_errors"]
    assert set(node_errors) == {"1", "2"}
    (error,) = node_errors["1"]["errors"]
    assert (error["type"], error["extra_info"]) == ("dependency_cycle", {"node_id": "1", "cycle_nodes": ["2", "1"]})
    assert error["details"] == "2 (ImageInvert) -> 1 (ImageInvert) -> 2 (ImageInvert)"
    assert node_errors["2"]["dependent_outputs"] == ["3"]
    assert post(oldest, graph).json()["node_errors"] == {}


def test_a_node_without_a_class(newest: SimulatorProcess) -> None:
    error = post(newest, {"7": {"inputs": {}}}).json()["error"]
    assert (error["type"], error["extra_info"]["node_id"]) == ("missing_node_type", "7")
    assert error["message"].startswith("Node 'ID #7' has no class_type.")


def test_jobs_count_what_can_be_looked_at(newest: SimulatorProcess) -> None:
    text = {"class_type": "PreviewAny", "inputs": {"source": "a text"}}
    prompt_id = ran(newest, {"1": EMPTY, "2": save(["1", 0]), "3": text})["prompt"][1]
    job = newest.get(f"/api/jobs/{prompt_id}")
    # The text is shown only where there is nothing else, and is no output by itself.
    assert (job["outputs_count"], job["previewable_outputs_count"]) == (1, 1)
    assert job["preview_output"]["filename"].endswith(".png")
    prompt_id = ran(newest, {"3": text})["prompt"][1]
    (job,) = (each for each in newest.get("/api/jobs")["jobs"] if each["id"] == prompt_id)
    assert (job["outputs_count"], job["preview_output"]["content"]) == (0, "a text")


def test_a_job_that_waits_tells_its_workflow(newest: SimulatorProcess) -> None:
    busy = {"class_type": "SimulatedWork", "inputs": {"image": ["1", 0], "seconds": 60, "steps": 1200}}
    slow = {"1": EMPTY, "2": busy, "3": save(["2", 0])}
    first, second = (post(newest, slow).json()["prompt_id"] for _ in range(2))
    job = newest.get(f"/api/jobs/{second}")
    assert (job["status"], job["previewable_outputs_count"]) == ("pending", 0)
    assert job["workflow"]["prompt"]["2"] == busy
    assert "workflow" not in newest.get("/api/jobs?status=pending")["jobs"][0]
    cancel = f"{newest.base_url}/api/jobs/cancel"
    assert requests.post(cancel, data="x", timeout=10).json() == {"error": "Request body must be valid JSON"}
    assert requests.post(cancel, json={"job_ids": "x"}, timeout=10).json() == {"error": "job_ids must be a list"}
    wrong = requests.post(cancel, json={"job_ids": [second, 7, "x"]}, timeout=10)
    assert (wrong.status_code, wrong.json()["invalid_ids"]) == (400, ["7", "x"])
    assert len(newest.get("/queue")["queue_pending"]) == 1, "one that errs cancels nothing"
    assert requests.post(cancel, json={"job_ids": [second, first]}, timeout=10).json() == {"cancelled": True}
    until(lambda: newest.get("/prompt")["exec_info"]["queue_remaining"] == 0, what="an empty queue")


@pytest.mark.parametrize(("said", "noted"), [({}, "tool/1"), ({"extra_data": {"comfy_usage_source": "own"}}, "own")])
def test_who_uses_it_is_noted(newest: SimulatorProcess, said: dict[str, Any], noted: str) -> None:
    entry = ran(newest, {"1": EMPTY, "2": save(["1", 0])}, headers={"Comfy-Usage-Source": "tool/1"}, **said)
    assert entry["prompt"][3]["comfy_usage_source"] == noted


def test_nodes_are_described_fully(newest: SimulatorProcess, oldest: SimulatorProcess) -> None:
    facts = {"is_input_list", "has_intermediate_output", "search_aliases"}
    assert facts <= newest.get("/object_info/SaveImage")["SaveImage"].keys()
    assert facts.isdisjoint(oldest.get("/object_info/SaveImage")["SaveImage"])


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()
