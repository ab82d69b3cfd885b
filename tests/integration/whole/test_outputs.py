"""Every kind of output reaches the client: saved files, previews, animations, sound, meshes, texts, sent pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from blake3 import blake3

from tests.fleet import ALL, Fleet

pytestmark = pytest.mark.slow

#: What the output nodes of these tests take as their input.
SOURCES: dict[str, dict[str, Any]] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 255}},
    "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "3": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
    "4": {"class_type": "SimulatedMesh", "inputs": {}},
}
GIF = {"images": ["1", 0], "frame_rate": 8, "loop_count": 0, "filename_prefix": "a", "format": "image/gif"}
VIDEO = {"video": ["3", 0], "filename_prefix": "a", "format": "mp4", "codec": "auto"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = Path(tmp_path_factory.mktemp("outputs"))
    with Fleet(root, simulated_gpus="1", simulator_args="--simulate-test-nodes") as fleet:
        yield fleet.start(*(name for name in ALL if name != "gpu1")).ready(gpus=1)


def outputs(fleet: Fleet, node: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs of a job with one output node, `9`, whose bytes are as announced."""
    job = fleet.wait(fleet.submit({**SOURCES, "9": node}), "succeeded")
    for output in job["outputs"]:
        assert output["node_id"] == "9"
        content = requests.get(output["url"], timeout=10)
        assert content.status_code == 200
        assert content.headers["Content-Type"].startswith(output["content_type"])
        assert len(content.content) == output["size_bytes"]
        assert output["hash"] == f"blake3:{blake3(content.content).hexdigest()}"
    found: list[dict[str, Any]] = job["outputs"]
    return found


@pytest.mark.parametrize(
    ("class_type", "inputs", "kind", "content_type", "count"),
    [
        ("SaveImage", {"images": ["1", 0], "filename_prefix": "a"}, "image", "image/png", 2),
        ("PreviewImage", {"images": ["1", 0]}, "image", "image/png", 2),
        ("SaveImageWebsocket", {"images": ["1", 0]}, "image", "image/png", 2),
        ("PreviewAny", {"source": ["1", 0]}, "text", "text/plain", 1),
        ("SimulatedSaveAudio", {"filename_prefix": "a", "seconds": 0.1}, "audio", "audio/", 1),
        ("SaveLatent", {"samples": ["2", 0], "filename_prefix": "a"}, "latent", "application/octet-stream", 1),
        ("SaveVideo", VIDEO, "video", "video/mp4", 1),
        ("SaveGLB", {"mesh": ["4", 0], "filename_prefix": "a"}, "file", "model/gltf-binary", 1),
        ("VHS_VideoCombine", {**GIF, "pingpong": False, "save_output": True}, "video", "image/gif", 1),
    ],
)
def test_kind(fleet: Fleet, class_type: str, inputs: dict[str, Any], kind: str, content_type: str, count: int) -> None:
    found = outputs(fleet, {"class_type": class_type, "inputs": inputs})
    assert [output["type"] for output in found] == [kind] * count
    assert all(output["content_type"].startswith(content_type) for output in found)
    # Two files of one job never share a name.
    assert len({output["name"] for output in found}) == count


def test_the_same_workflow_again_has_outputs_of_its_own(fleet: Fleet) -> None:
    node = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "twice"}}
    first, second = outputs(fleet, node), outputs(fleet, node)
    assert [output["name"] for output in first] == [output["name"] for output in second]
    assert {output["id"] for output in first}.isdisjoint(output["id"] for output in second)
    # ComfyUI had the image in its cache, and the client is told so.
    job = requests.get(f"{fleet.base_url}/api/v2/jobs/{second[0]['job_id']}", timeout=10).json()
    assert job["outputs_reused"] is True


def test_output_files_do_not_stay_behind_on_the_gpu_host(fleet: Fleet) -> None:
    node = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "moved"}}
    [output, _] = outputs(fleet, node)
    assert not (fleet.data_dir / "gpus" / "gpu0" / "output" / output["job_id"]).exists()
    assert (fleet.data_dir / "outputs" / output["job_id"] / output["name"]).is_file()


def glanced(seed: int) -> dict[str, Any]:
    """Outputs of all kinds without a prefix: in the middle, in an expansion, previewed, and of one fixed name."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": seed}},
        "2": {"class_type": "T_Glance", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "T_Expand", "inputs": {"image": ["2", 0]}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        "5": {"class_type": "T_SaveFixed", "inputs": {"image": ["1", 0], "name": "fixed.png"}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }


def shown(job: dict[str, Any]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for output in job["outputs"]:
        answer = requests.get(output["url"], timeout=10)
        assert answer.status_code == 200, output
        found.setdefault(output["node_id"], []).append(answer.content)
    return found


def test_the_same_graph_again_and_again_gives_all_of_its_files(fleet: Fleet) -> None:
    first, second = (fleet.submit(glanced(40)) for _ in range(2))
    jobs = [fleet.wait(job_id, "succeeded") for job_id in (first, second, fleet.submit(glanced(40)))]
    assert [{node: len(files) for node, files in shown(job).items()} for job in jobs] == [
        {"2": 2, "3": 2, "4": 2, "5": 1, "6": 2}
    ] * 3
    assert jobs[2]["outputs_reused"] is True


def test_a_node_in_the_middle_is_asked_for_its_files_twice_only_once(fleet: Fleet) -> None:
    """What the cache would spare each second time runs at once instead of after a prompt in vain."""

    def again() -> int:
        return fleet.log("gpu0").count("run again")

    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 50}},
        "2": {"class_type": "T_Glance", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }
    for _ in range(2):
        fleet.wait(fleet.submit(graph), "succeeded")
    before = again()
    for _ in range(3):
        job = fleet.wait(fleet.submit(graph), "succeeded")
        assert set(shown(job)) == {"2", "3"}
    assert again() == before > 0


def test_a_file_of_a_fixed_name_is_of_the_job_that_made_it(fleet: Fleet) -> None:
    ids = [fleet.submit(glanced(color)) for color in range(1, 7)]
    pictures = [shown(fleet.wait(job_id, "succeeded"))["5"][0] for job_id in ids]
    assert len(set(pictures)) == 6
