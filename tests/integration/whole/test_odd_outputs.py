"""Whatever a graph names and a node reports: what is the job's reaches its client, and nothing else does."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from api.service.catalogues import MAX_AGE_S
from tests.fleet import Fleet
from tests.simulator_process import SimulatorProcess, simulator
from tests.waiting import until

pytestmark = pytest.mark.slow


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


def test_a_text_of_megabytes_is_delivered_and_stays_out_of_the_ledger(fleet: Fleet) -> None:
    job = fleet.wait(fleet.submit(odd("big_text")), "succeeded")
    text, boxes = (content(output).decode() for output in job["outputs"])
    assert text == "té" * 1_000_000
    assert json.loads(boxes) == [[0, 1]] * 50_000
    with contextlib.closing(sqlite3.connect(fleet.data_dir / "ledger.db")) as database:
        rows = database.execute("SELECT source FROM assets WHERE job_id = ?", (job["id"],)).fetchall()
    assert len(rows) == 2
    assert all(len(source) < 1000 for (source,) in rows)


@pytest.mark.parametrize(("kind", "name"), [("repeat", "r.png"), ("folder_in_name", "r.png"), ("input", "shown_r.png")])
def test_a_file_that_is_named_oddly_comes_once(fleet: Fleet, kind: str, name: str) -> None:
    for _ in range(2):
        job = fleet.wait(fleet.submit(odd(kind, "r")), "succeeded", timeout_s=15)
        [output] = job["outputs"]
        assert output["name"] == name
        assert content(output).startswith(b"\x89PNG")
        assert "missing_outputs" not in job


def picture(color: int, size: int = 8) -> dict[str, Any]:
    return {"class_type": "EmptyImage", "inputs": {"width": size, "height": size, "batch_size": 2, "color": color}}


def dataset(folder: Any, *, class_type: str = "SaveImageDataSetToFolder", **more: Any) -> dict[str, Any]:
    inputs = {"images": ["1", 0], "folder_name": folder, "filename_prefix": "a/image", "mode": "overwrite", **more}
    return {"1": picture(1), "2": {"class_type": class_type, "inputs": inputs}}


def names(job: dict[str, Any]) -> list[str]:
    assert all(content(output) for output in job["outputs"])
    return sorted(output["name"] for output in job["outputs"])


@pytest.mark.parametrize("folder", ["ds", "../../x", "/tmp/x", ""])
def test_a_dataset_is_saved_below_its_job_and_delivered(fleet: Fleet, theirs: SimulatorProcess, folder: str) -> None:
    job = fleet.wait(fleet.submit(dataset(folder)), "succeeded")
    assert names(job) == ["image_00000.png", "image_00001.png"]
    assert {output["node_id"] for output in job["outputs"]} == {"2"}
    assert not (theirs.root.parent / "x").exists()
    assert not (fleet.data_dir / "gpus" / "x").exists()


def test_a_dataset_with_texts_that_writes_over_nothing(fleet: Fleet) -> None:
    graph = dataset("ds", class_type="SaveImageTextDataSetToFolder", texts="words", mode="increment")
    job = fleet.wait(fleet.submit(graph), "succeeded")
    stems = ["image_00001_00000", "image_00002_00001"]
    assert names(job) == sorted(f"{stem}.{ending}" for stem in stems for ending in ("png", "txt"))


@pytest.mark.parametrize("folder", ["output", "{tmp}/elsewhere", "../../elsewhere", "elsewhere", ["4", 0]])
def test_a_saver_that_makes_a_place_of_any_other_folder(fleet: Fleet, tmp_path: Path, folder: Any) -> None:
    folder = folder.format(tmp=tmp_path) if isinstance(folder, str) else folder
    inputs = {"images": ["1", 0], "filename_prefix": "a/cat", "output_folder": folder, "caption": ["4", 0]}
    graph = {
        "1": picture(4),
        "2": {"class_type": "SaveImageKJ", "inputs": inputs},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "other"}},
        "4": {"class_type": "StringConcatenate", "inputs": {"a": str(tmp_path), "b": "/elsewhere"}},
    }
    for _ in range(2):
        job = fleet.wait(fleet.submit(graph), "succeeded", timeout_s=15)
        assert sorted((output["node_id"], output["name"]) for output in job["outputs"]) == [
            *(("2", f"cat_0000{number}_.{ending}") for number in (1, 2) for ending in ("png", "txt")),
            *(("3", f"other_0000{number}_.png") for number in (1, 2)),
        ]
        assert all(content(output) for output in job["outputs"])
    assert not (tmp_path / "elsewhere").exists()


def upload(fleet: Fleet, name: str, data: bytes) -> str:
    answer = requests.post(
        f"{fleet.base_url}/api/v2/assets", files={"file": (name, data)}, data={"file_path": name}, timeout=10
    )
    assert answer.status_code in (200, 201), answer.text
    asset_id: str = answer.json()["id"]
    return asset_id


@pytest.mark.parametrize(
    ("class_type", "input_name", "ending"),
    [("LoadLatent", "latent", "latent"), ("Load3D", "model_file", "glb"), ("T_PlainLoad", "document", "pdf")],
)
@pytest.mark.parametrize("form", ["tag", "id"])
def test_an_asset_stands_for_a_file_wherever_a_class_names_one(
    fleet: Fleet, class_type: str, input_name: str, ending: str, form: str
) -> None:
    data = f"{class_type} {form}".encode() * 10
    asset_id = upload(fleet, f"my file.{ending}", data)
    value = {"__type": "core/ASSET", "info": {"id": asset_id}} if form == "tag" else asset_id
    graph = {"1": {"class_type": class_type, "inputs": {input_name: value}}}
    job = fleet.wait(fleet.submit(graph), "succeeded")
    [output] = job["outputs"]
    assert content(output).decode() == f".{ending} {len(data)}"


def test_an_asset_goes_where_a_loader_lists_its_files(fleet: Fleet, theirs: SimulatorProcess) -> None:
    for folder in (fleet.data_dir / "gpus" / "gpu0" / "input", theirs.input_dir):
        (folder / "3d").mkdir(parents=True, exist_ok=True)
        (folder / "3d" / "known.obj").write_bytes(b"x")
    inputs = {"input_obj": "3d/known.obj"}
    graph = {"1": {"class_type": "T_MeshLoad", "inputs": inputs}}
    fleet.wait(fleet.submit(graph), "succeeded")
    # Its instance looks for new files because of this one, and the API asks for them once a second.
    assert error_of(fleet, reading("LoadImage", image="not-there.png"))
    time.sleep(MAX_AGE_S + 0.5)
    inputs["input_obj"] = upload(fleet, "my file.obj", b"12345")
    job = fleet.wait(fleet.submit(graph), "succeeded")
    assert [content(output).decode() for output in job["outputs"]] == [".obj 5"]


def kept(folder: Path) -> list[Path]:
    """Files of jobs below an input folder that still hold something."""
    return [path for path in folder.rglob("*-secret.*") if path.stat().st_size]


def test_input_files_do_not_stay(fleet: Fleet, theirs: SimulatorProcess) -> None:
    for ending, class_type, input_name in (("glb", "Load3D", "model_file"), ("latent", "LoadLatent", "latent")):
        asset_id = upload(fleet, f"secret.{ending}", b"secret" + ending.encode())
        graph = {"1": {"class_type": class_type, "inputs": {input_name: asset_id}}}
        fleet.wait(fleet.submit(graph), "succeeded")
    for folder in (fleet.data_dir / "gpus" / "gpu0" / "input", theirs.input_dir):
        until(lambda: not kept(folder), what="no secrets")  # noqa: B023


def error_of(fleet: Fleet, graph: dict[str, Any]) -> str:
    answer = requests.post(f"{fleet.base_url}/api/v2/jobs", json={"workflow": graph}, timeout=10)
    assert answer.status_code == 422, answer.text
    message: str = answer.json()["error"]["message"]
    return message


def reading(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {
        "1": {"class_type": class_type, "inputs": inputs},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }


def test_nothing_of_another_job_is_read(fleet: Fleet, theirs: SimulatorProcess) -> None:
    other = fleet.wait(fleet.submit(dataset("ds")), "succeeded")["id"]
    # As if that job were running, on an instance that lists what it finds.
    for folder in (theirs.input_dir, fleet.data_dir / "gpus" / "gpu0" / "input"):
        (folder / other).mkdir(parents=True)
        (folder / other / "0-secret.png").write_bytes(b"secret")
    for graph in (
        reading("LoadImageDataSetFromFolder", folder=other),
        reading("LoadImageDataSetFromFolder", folder=f"./{other}"),
        reading("LoadImageDataSetFromFolder", folder="."),
        reading("LoadImageDataSetFromFolder", folder=["2", 0]),
        reading("LoadImage", image=f"{other}/0-secret.png"),
        reading("LoadImage", image=f"{other}/0-secret.png [input]"),
        reading("LoadImage", image=f"{other}/image_00000.png [output]"),
        reading("LoadLatent", latent=f"fleet-{other}-0-secret.latent"),
        reading("LoadLatent", latent="../output/x.latent"),
        reading("Load3D", model_file=f"3d/fleet-{other}-0-secret.glb"),
        {"1": {"class_type": "Preview3D", "inputs": {"model_file": f"{other}/ds/image_00000.png"}}},
        {"1": {"class_type": "Preview3D", "inputs": {"model_file": str(fleet.data_dir / "outputs")}}},
    ):
        assert error_of(fleet, graph), graph


def test_a_path_that_is_put_together_while_the_graph_runs_brings_nothing_of_another_job(fleet: Fleet) -> None:
    other = fleet.wait(fleet.submit(dataset("ds")), "succeeded")["id"]
    graph = {
        "1": {"class_type": "StringConcatenate", "inputs": {"a": other[:8], "b": f"{other[8:]}/ds/image_00000.png"}},
        "2": {"class_type": "Preview3D", "inputs": {"model_file": ["1", 0]}},
    }
    job = fleet.wait(fleet.submit(graph), "failed")
    assert job["error"]["code"] == "output_unavailable"


def test_previews_of_an_identical_graph_come_each_time(fleet: Fleet) -> None:
    graph = {
        "1": picture(9),
        "2": {"class_type": "T_Glance", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        "4": {"class_type": "T_Expand", "inputs": {"image": ["1", 0]}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    }
    for _ in range(3):
        job = fleet.wait(fleet.submit(graph), "succeeded", timeout_s=15)
        assert sorted(output["node_id"] for output in job["outputs"]) == ["2", "2", "3", "3", "4", "4", "5", "5"]
        assert all(content(output).startswith(b"\x89PNG") for output in job["outputs"])
    assert job["outputs_reused"] is True


#: A workflow of the editor, which the files are to carry.
EDITORS = {"workflow": {"nodes": [{"id": 1}, {"id": 2}], "links": [], "extra": {"big": 2**53 + 1}}}


def saving() -> dict[str, Any]:
    needing = {"class_type": "T_NeedsPngInfo", "inputs": {"text": "a"}}
    saver = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {**picture(3)["inputs"], "batch_size": 1}},
        "2": saver,
        "3": needing,
    }


def written(job: dict[str, Any]) -> dict[str, Any]:
    """What stands in the picture, after the node that needs the workflow has had it."""
    by_node = {output["node_id"]: content(output) for output in job["outputs"]}
    assert by_node["3"] == b"a: 2 nodes"
    with Image.open(io.BytesIO(by_node["2"])) as image:
        return {str(key): json.loads(text) for key, text in image.info.items()}


def test_the_editors_workflow_reaches_nodes_and_files(fleet: Fleet) -> None:
    job = fleet.wait(fleet.submit(saving(), extra_data={"extra_pnginfo": EDITORS}), "succeeded")
    assert written(job)["workflow"] == EDITORS["workflow"]
    shown = requests.get(f"{fleet.base_url}/api/v2/jobs/{job['id']}/workflow", timeout=10).json()
    assert set(shown) == {"workflow", "format"}


def test_the_generate_family_takes_it_too(fleet: Fleet) -> None:
    wanted = {"workflow_json": saving(), "extra_data": {"extra_pnginfo": EDITORS}}
    answer = requests.post(f"{fleet.base_url}/generate", json={"input": wanted}, timeout=10)
    assert answer.status_code == 202, answer.text
    job = fleet.wait(answer.json()["id"], "succeeded")
    assert written(job)["workflow"] == EDITORS["workflow"]


def test_it_is_stripped_when_that_is_asked_for(fleet: Fleet) -> None:
    body = {"extra_data": {"extra_pnginfo": EDITORS}, "strip_metadata": True}
    assert written(fleet.wait(fleet.submit(saving(), **body), "succeeded")) == {}


def test_a_node_that_needs_it_fails_without(fleet: Fleet) -> None:
    job = fleet.wait(fleet.submit(saving()), "failed")
    assert (job["error"]["code"], job["error"]["node_id"]) == ("node_execution_error", "3")
