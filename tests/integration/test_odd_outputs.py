"""Whatever shape a node reports its results in: what is there reaches the client, and what is not is told of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.fleet import Fleet
from tests.simulator_process import SimulatorProcess, simulator


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with simulator(tmp_path_factory.mktemp("theirs"), "--simulate-test-nodes") as process:
        yield process


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("ours")
    with Fleet(root, simulated_gpus="1", simulator_args="--simulate-test-nodes", host="here") as fleet:
        yield fleet.start("broker", "api", "gpu0", "io", "beat")


@pytest.fixture(scope="module")
def attached(theirs: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("attached"), comfyui_urls=theirs.base_url, host="here") as fleet:
        yield fleet.start("broker", "api", "gpu0", "io", "beat")


@pytest.fixture(params=["ours", "attached"])
def fleet(request: pytest.FixtureRequest) -> Fleet:
    fleet: Fleet = request.getfixturevalue(request.param)
    return fleet.ready(gpus=1)


def odd(kind: str, tag: str = "t") -> dict[str, Any]:
    return {"1": {"class_type": "T_Odd", "inputs": {"kind": kind, "tag": tag}}}


def content(output: dict[str, Any]) -> bytes:
    answer = requests.get(output["url"], timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.parametrize("kind", ["absolute", "dots", "two_dots", "missing", "nul", "long"])
def test_a_file_that_cannot_be_had_is_told_at_once_and_the_good_ones_come(fleet: Fleet, kind: str) -> None:
    job = fleet.wait(fleet.submit(odd(kind, kind)), "succeeded", timeout_s=15)
    [good] = job["outputs"]
    assert good["name"] == f"good_{kind}.png"
    assert content(good).startswith(b"\x89PNG")
    [missing] = job["missing_outputs"]
    assert missing["node_id"] == "1"
    assert missing["message"].startswith("Node 1 reported the file ")
    result = requests.get(f"{fleet.base_url}/result/{job['id']}", timeout=10).json()
    assert "1 reported files are not there" in result["message"]


def test_a_job_of_which_nothing_can_be_had_fails_at_once(fleet: Fleet) -> None:
    job = fleet.wait(fleet.submit(odd("only_missing")), "failed", timeout_s=15)
    assert (job["error"]["code"], job["error"]["node_id"]) == ("output_unavailable", "1")
    assert "no.png" in job["error"]["message"]
    assert job["outputs"] == []


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("number", ["3", "2.5", "true", "7"]),
        ("dict_text", [{"tag": "t", "boxes": [[1, 2], [3, 4]]}]),
        ("tags", [["t", "b", "c"], "one"]),
        ("nan", ["NaN", ["Infinity", 1.0]]),
        ("none", []),
        ("string", ["t.png", "t"]),
        ("tuple", ["t", "t", [[1, 2], "x"]]),
        ("nested", [{"mesh": {"vertices": [[0, 0, 1]]}}]),
        ("key", ["t", "t"]),
    ],
)
def test_values_become_texts_and_json(fleet: Fleet, kind: str, wanted: list[Any]) -> None:
    job = fleet.wait(fleet.submit(odd(kind)), "succeeded", timeout_s=15)
    found = []
    for output in job["outputs"]:
        assert output["type"] == "text"
        is_json = output["content_type"] == "application/json"
        assert output["name"].endswith(".json" if is_json else ".txt")
        found.append(json.loads(content(output)) if is_json else content(output).decode())
    assert found == wanted


@pytest.mark.parametrize(("kind", "name"), [("repeat", "r.png"), ("folder_in_name", "r.png"), ("input", "shown_r.png")])
def test_a_file_that_is_named_oddly_comes_once(fleet: Fleet, kind: str, name: str) -> None:
    for _ in range(2):
        job = fleet.wait(fleet.submit(odd(kind, "r")), "succeeded", timeout_s=15)
        [output] = job["outputs"]
        assert output["name"] == name
        assert content(output).startswith(b"\x89PNG")
        assert "missing_outputs" not in job
