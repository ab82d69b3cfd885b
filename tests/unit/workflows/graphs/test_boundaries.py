"""What a graph may not reach, and what it may all the same."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidWorkflow
from workflows.graphs.boundaries import Paths, absolute_paths, jobs_named
from workflows.graphs.checks import check_graph
from workflows.graphs.file_names import (
    job_in_path,
    leads_elsewhere,
    listed_folder,
    may_list_files,
    names_a_jobs_file,
    staged_name,
)
from workflows.graphs.graph import Graph
from workflows.graphs.node_facts import GraphFacts

JOB = "3f2c0a52-2a0b-4d0e-9d5c-0f6a1f0f8a11"

CATALOGUE: dict[str, dict[str, Any]] = {
    "Webcam": {"input": {"required": {"image": ["WEBCAM", {}]}}, "output": ["IMAGE"], "output_node": True},
    "Scene": {"input": {"required": {"image": ["LOAD_3D", {}]}}, "output": ["IMAGE"], "output_node": True},
    "Listed": {"input": {"required": {"folder": [["cats", JOB], {}]}}, "output": [], "output_node": True},
    "Anything": {"input": {"required": {"value": ["*", {}]}}, "output": [], "output_node": True},
    "Saver": {"input": {"required": {"output_path": ["STRING", {}]}}, "output": [], "output_node": True},
    "Reader": {"input": {"required": {"directory": ["STRING", {}]}}, "output": ["IMAGE"]},
    "Text": {"input": {"required": {"text": ["STRING", {}]}}, "output": ["STRING"], "output_node": True},
    "SaveInto": {
        "input": {"required": {"output_path": ["STRING", {}], "filename_prefix": ["STRING", {}]}},
        "output": [],
        "output_node": True,
    },
    "LoadImageDataSetFromFolder": {"input": {"required": {"folder": [["cats"], {}]}}, "output": ["IMAGE"]},
    "GeminiInputFiles": {"input": {"required": {"file": ["COMBO", {"options": ["a.pdf"]}]}}, "output": ["FILES"]},
    "Several": {
        "input": {"required": {"images": [["a.png"], {"image_upload": True, "allow_batch": True}]}},
        "output": [],
        "output_node": True,
    },
    "Show": {"input": {"required": {"images": ["IMAGE", {}]}}, "output": [], "output_node": True},
}


def paths_of(graph: Graph) -> Paths:
    return GraphFacts(graph).paths


def check(class_type: str, **inputs: Any) -> None:
    graph = {
        "0": {"class_type": "Text", "inputs": {"text": "a link could bring anything"}},
        "1": {"class_type": class_type, "inputs": inputs},
        "2": {"class_type": "Show", "inputs": {"images": ["1", 0]}},
    }
    if not CATALOGUE[class_type]["output"]:
        del graph["2"]
    check_graph(graph, CATALOGUE, staged_files=["mine/0"])


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("Webcam", {"image": "webcam/1.png [temp]"}),
        ("Webcam", {"image": "/etc/hostname"}),
        ("Webcam", {"image": "../x.png"}),
        ("Scene", {"image": {"image": "a.png", "mask": f"{JOB}/0-a.png"}}),
        ("Scene", {"image": {"image": "a.png", "mask": "x.png [output]"}}),
        ("Listed", {"folder": JOB}),
        ("Saver", {"output_path": "/srv/www"}),
        ("Saver", {"output_path": "~me"}),
        ("Saver", {"output_path": "~/x"}),
        ("Saver", {"output_path": "a/../../x"}),
        ("Reader", {"directory": "../output"}),
        ("Reader", {"directory": "x\\..\\y"}),
        *(("LoadImageDataSetFromFolder", {"folder": each}) for each in (".", "./.", "3D", "3d/.", ".//", "a/..")),
        ("LoadImageDataSetFromFolder", {"folder": ["0", 0]}),
        ("GeminiInputFiles", {"file": ["0", 0]}),
        ("GeminiInputFiles", {"file": "a.pdf [output]"}),
        *(
            ("Several", {"images": {"__value__": ["a.png", each]}})
            for each in ("../x.png", "x.png [output]", f"{JOB}/0-x.png", "", 5)
        ),
    ],
)
def test_what_is_not_the_jobs_is_refused(class_type: str, inputs: dict[str, Any]) -> None:
    with pytest.raises(InvalidWorkflow) as refused:
        check(class_type, **inputs)
    [problem] = refused.value.node_errors["1"]["errors"]
    assert problem["extra_info"]["input_name"] == next(iter(inputs))


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("Webcam", {"image": "webcam/1.png"}),
        ("Webcam", {"image": "mine/0"}),
        ("Webcam", {"image": "/api/view?filename=a.mp3&type=input&subfolder=&rand=0.5"}),
        ("Webcam", {"image": "/imagine\na cat"}),
        ("Scene", {"image": {"image": "mine/0", "camera": {"position": [0, 1]}}}),
        ("Listed", {"folder": "cats"}),
        ("LoadImageDataSetFromFolder", {"folder": "cats/3d"}),
        ("GeminiInputFiles", {"file": "b.pdf"}),
        ("Several", {"images": {"__value__": ["a.png", "pasted/b.png", "mine/0"]}}),
        ("Anything", {"value": "/etc/hostname"}),
        ("Saver", {"output_path": "portraits/2026"}),
        ("Saver", {"output_path": "https://example.com/../x"}),
        ("Reader", {"directory": "/mnt/nas/pictures"}),
        ("Text", {"text": "../.. and /etc, or x.png [temp]"}),
        ("SaveInto", {"output_path": "../../x", "filename_prefix": "a"}),
    ],
)
def test_what_is_the_servers_or_the_operators_business_is_accepted(class_type: str, inputs: dict[str, Any]) -> None:
    check(class_type, **inputs)


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        (f"{JOB}/a.png", True),
        (f"out\\{JOB}\\a.png", True),
        (f"/srv/{JOB.upper()}/a.png", True),
        (f"3d/fleet-{JOB}-0-a.glb", True),
        (JOB, False),
        (f"https://example.com/{JOB}/a.png", False),
        (f"a long text\nabout {JOB}/x", False),
        (f"x{JOB}/a.png", False),
    ],
)
def test_paths_to_files_of_jobs(text: str, is_path: bool) -> None:
    graph = {"7": {"class_type": "Text", "inputs": {"text": {"a": [text]}}}}
    assert jobs_named(paths_of(graph)) == ({JOB: ("7", "text")} if is_path else {})


def test_what_is_rewritten_may_name_an_earlier_job() -> None:
    inputs = {"filename_prefix": f"{JOB}/x", "output_path": f"{JOB}/ds", "fleet_run": f"{JOB}/"}
    assert jobs_named(paths_of({"7": {"class_type": "SaveInto", "inputs": inputs}})) == {}


def test_no_text_that_a_rule_about_paths_refuses_is_passed_over() -> None:
    pieces = ["..", ".", "/", "\\", "~", "C:", "\0", "[temp]", " [input]", "a", "-", "fleet-", JOB]
    texts = {"".join(some) for length in (1, 2, 3) for some in itertools.product(pieces, repeat=length)}
    looked_at = paths_of({text: {"class_type": "Text", "inputs": {"text": text}} for text in texts})

    refused = {text for text in texts if leads_elsewhere(text) or names_a_jobs_file(text) or job_in_path(text)}
    assert refused <= looked_at.keys() < texts


def test_absolute_paths() -> None:
    inputs = {"text": "/imagine a cat", "other": "/", "path": "/", "file": "/srv/../srv/x/a.png"}
    found = list(absolute_paths(paths_of({"7": {"class_type": "Text", "inputs": inputs}})))
    assert found == [("7", "path", Path("/")), ("7", "file", Path("/srv/x/a.png"))]


@pytest.mark.parametrize(
    ("class_type", "name"),
    [
        ("LoadImage", f"{JOB}/3-a.png"),
        ("LoadLatent", f"{JOB}/3-a.png"),
        ("Load3D", f"3d/fleet-{JOB}-3-a.png"),
        ("SomePacksLoader", f"fleet-{JOB}-3-a.png"),
    ],
)
def test_where_loaders_look(class_type: str, name: str) -> None:
    assert staged_name(JOB, 3, "a.png", class_type) == name


def test_where_a_list_shows_that_a_loader_looks() -> None:
    assert staged_name(JOB, 3, "a.obj", "SomePacksLoader", "meshes") == f"meshes/fleet-{JOB}-3-a.obj"
    assert staged_name(JOB, 3, "a.png", "LoadImage", "pasted") == f"{JOB}/3-a.png"


@pytest.mark.parametrize(
    ("choices", "folder"),
    [
        (["none", "3d/a.obj", "3d/b/c.obj"], "3d"),
        (["3d\\a.obj"], "3d"),
        (["a.obj", "3d/a.obj"], ""),
        (["output/a.obj", "3d/a.obj"], ""),
        (["../a.obj"], ""),
        (["/srv/a.obj"], ""),
        (["none"], ""),
        ([], ""),
    ],
)
def test_the_folder_of_a_list(choices: list[str], folder: str) -> None:
    assert listed_folder(choices) == folder


@pytest.mark.parametrize(
    ("choices", "may"),
    [([], True), (["a.pdf"], True), (["model.safetensors"], False), (["euler", "v1.5"], False), (["x.3mf"], True)],
)
def test_lists_of_files(choices: list[str], may: bool) -> None:
    assert may_list_files(choices) is may
