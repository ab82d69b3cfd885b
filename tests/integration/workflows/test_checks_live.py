"""Our checks and a live server must say the same of the same graph: the stand-in, or `COMFYLINE_TEST_COMFYUI_URL`."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidWorkflow
from tests.field_graphs import FieldGraph, field_graphs, make_files
from tests.simulator_process import simulator
from workflows.graphs.checks import cacheable_catalogue, check_graph
from workflows.graphs.graph import Catalogue
from workflows.templates.samples import sample

Nodes = dict[str, dict[str, Any]]
Changes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    real = os.environ.get("COMFYLINE_TEST_COMFYUI_URL")
    if real:
        yield real.split(",")[0].rstrip("/")
        return
    if importlib.util.find_spec("comfy.simulator.__main__") is None:
        pytest.skip("there is no stand-in to start in this checkout")
    root: Path = tmp_path_factory.mktemp("simulator")
    make_files(root / "input", root / "output")
    with simulator(root, "--simulate-test-nodes") as process:
        yield process.base_url


@pytest.fixture(scope="module")
def catalogue(base_url: str) -> Catalogue:
    with urllib.request.urlopen(f"{base_url}/object_info", timeout=30) as reply:
        object_info: Catalogue = json.load(reply)
    return cacheable_catalogue(object_info)


def server_errors(base_url: str, graph: Nodes) -> dict[str, Any] | None:
    """None if the server takes the whole graph, else its `node_errors`."""
    body = json.dumps({"prompt": graph, "client_id": "graph-checks"}).encode()
    request = urllib.request.Request(f"{base_url}/prompt", data=body, headers={"Content-Type": "application/json"})
    try:
        reply = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as exc:
        reply = exc
    with reply:
        answer: dict[str, Any] = json.load(reply)
    assert reply.status in (200, 400)
    if "prompt_id" in answer and not answer["node_errors"]:
        return None
    return dict(answer["node_errors"])


def our_errors(catalogue: Catalogue, graph: Nodes) -> dict[str, Any] | None:
    try:
        check_graph(graph, catalogue)
    except InvalidWorkflow as exc:
        return exc.node_errors
    return None


def image_graph(changes: Changes, *, without: tuple[str, str] | None = None, extra: Nodes | None = None) -> Nodes:
    graph = sample("image_only")
    graph["1"]["inputs"] |= {"width": 16, "height": 16}
    for node_id, inputs in changes.items():
        graph[node_id]["inputs"] |= inputs
    if without:
        del graph[without[0]]["inputs"][without[1]]
    return graph | (extra or {})


GOOD: dict[str, Nodes] = {
    "the sample": image_graph({}),
    "numbers as text": image_graph({"1": {"width": "16", "height": 16.7}}),
    "true is one": image_graph({"1": {"batch_size": True}}),
    "wrapped literal": image_graph({"1": {"color": {"__value__": 5}}}),
    "any text as prefix": image_graph({"3": {"filename_prefix": 5}}),
    "unknown input": image_graph({"3": {"unknown": "x"}}),
    "idle node": image_graph({}, extra={"9": {"class_type": "ImageInvert", "inputs": {}}}),
    "idle cycle": image_graph({}, extra={"9": {"class_type": "ImageInvert", "inputs": {"image": ["9", 0]}}}),
    "two outputs": image_graph({}, extra={"9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}),
}

BAD: dict[str, Nodes] = {
    "too large": image_graph({"1": {"width": 999999}}),
    "too small": image_graph({"1": {"width": 0}}),
    "no number": image_graph({"1": {"width": "abc"}}),
    "null": image_graph({"1": {"width": None}}),
    "missing": image_graph({}, without=("1", "width")),
    "missing link": image_graph({}, without=("2", "image")),
    "short link": image_graph({"2": {"image": ["1"]}}),
    "link to nothing": image_graph({"2": {"image": ["99", 0]}}),
    "slot out of range": image_graph({"2": {"image": ["1", 7]}}),
    "slot as text": image_graph({"2": {"image": ["1", "0"]}}),
    "wrong type": image_graph(
        {"2": {"image": ["9", 1]}}, extra={"9": {"class_type": "LoadImage", "inputs": {"image": "no-such.png"}}}
    ),
    "no such file": image_graph(
        {"2": {"image": ["9", 0]}}, extra={"9": {"class_type": "LoadImage", "inputs": {"image": "no-such.png"}}}
    ),
    "unknown class": image_graph({}, extra={"9": {"class_type": "NoSuchClassAnywhere", "inputs": {}}}),
    "cycle": image_graph({"2": {"image": ["2", 0]}}),
    "one bad output": image_graph({}, extra={"9": {"class_type": "PreviewImage", "inputs": {}}}),
}


@pytest.mark.parametrize("graph", list(GOOD.values()), ids=list(GOOD))
def test_both_accept(base_url: str, catalogue: Catalogue, graph: Nodes) -> None:
    assert our_errors(catalogue, copy.deepcopy(graph)) is None
    assert server_errors(base_url, graph) is None


@pytest.mark.parametrize("graph", list(BAD.values()), ids=list(BAD))
def test_both_refuse(base_url: str, catalogue: Catalogue, graph: Nodes) -> None:
    ours, theirs = our_errors(catalogue, copy.deepcopy(graph)), server_errors(base_url, graph)
    assert ours
    assert theirs is not None
    # Some versions name no node for a cycle or an unknown class, and hide a dangling link behind an exception.
    for node_id, entry in theirs.items():
        assert node_id in ours
        for error in entry["errors"]:
            if not error["type"].startswith(("exception_", "dependency_", "missing_node_")):
                assert error["type"] in {mine["type"] for mine in ours[node_id]["errors"]}


@pytest.mark.parametrize("case", field_graphs(), ids=lambda case: case.name)
def test_a_graph_from_the_field_has_the_verdict_of_a_real_server(
    base_url: str, catalogue: Catalogue, case: FieldGraph
) -> None:
    pack_or_newer = {"T_Fails", "T_NeedsPngInfo", "T_OddOutputs"} | ({"SaveVideo"} & case.classes)
    if case.server == "accept" and (case.classes - set(catalogue) or case.classes & pack_or_newer):
        pytest.skip("this server does not have its classes")
    theirs = server_errors(base_url, case.graph)
    assert (theirs is None) == (case.server == "accept")


def test_the_demo_is_complete(catalogue: Catalogue) -> None:
    graph = sample("demo")
    graph["4"]["inputs"]["ckpt_name"] = "surely-not-installed.safetensors"
    errors = our_errors(catalogue, graph)
    assert errors is not None
    assert list(errors) == ["4"]
    assert errors["4"]["errors"][0]["type"] == "value_not_in_list"


def test_the_stand_in_has_the_demos_model(catalogue: Catalogue) -> None:
    if os.environ.get("COMFYLINE_TEST_COMFYUI_URL"):
        pytest.skip("a real server has the models its owner gave it")
    assert our_errors(catalogue, sample("demo")) is None
