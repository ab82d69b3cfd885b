from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from core.errors import InvalidWorkflow
from tests.unit.catalogue_literals import CATALOGUE, Nodes, first, image_graph, node, refused, with_input
from workflows.graphs.checks import check_graph

UNSAFE = [
    "../../etc/passwd",
    "..",
    "a/../../b.png",
    "./cat.png",
    "a//b.png",
    "a/",
    "/proc/self/environ",
    "/dev/zero",
    "/root/.ssh/id_rsa",
    "~/cat.png",
    "C:cat.png",
    "..\\..\\x",
    "%2e%2e/x",
    "a%2Fb.png",
    "a%5cb.png",
    "x\u0000.png",
    "x\n.png",
    "tenantB/x_00001_.png [output]",
    "x.png [temp]",
    "x.png[output]",
    "x.png[input]",
    "x.png [output] [input]",
    "x" * 256,
    " ",
    "a/.. /b.png",
    "a/... /b.png",
]


@pytest.mark.parametrize("name", UNSAFE, ids=repr)
def test_unsafe_file_names_are_refused_even_if_listed_or_staged_or_idle(name: str) -> None:
    listed = CATALOGUE | {"LoadImage": node({"image": [[name], {"image_upload": True}]}, ["IMAGE", "MASK"])}
    with pytest.raises(InvalidWorkflow) as caught:
        check_graph(with_input("LoadImage", "image", name), listed, staged_files={name})
    error = caught.value.node_errors["n"]["errors"][0]
    assert error["type"] == "custom_validation_failed"
    assert error["details"].startswith("image - Invalid image file: ")
    # ComfyUI hashes the file of a LoadImage that is connected to nothing, too.
    idle = image_graph() | {"x": {"class_type": "LoadImage", "inputs": {"image": name}}}
    assert first(idle, "x")["type"] == "custom_validation_failed"


def test_no_telling_what_exists_from_the_answer() -> None:
    def answer(name: str) -> str:
        return json.dumps(refused(with_input("LoadImage", "image", name))).replace(name, "<name>")

    assert answer("/etc/passwd") == answer("/etc/no-such") == answer("no-such.png") == answer("../cat.png")


@pytest.mark.parametrize(
    ("class_type", "name", "value", "details"),
    [
        ("LoadImage", "image", 5, "image - Invalid image file: 5"),
        ("LoadImage", "image", {"__value__": ["cat.png"]}, "image - Invalid image file: ['cat.png']"),
        ("LoadAudio", "audio", "b.mp3", "audio - Invalid audio file: b.mp3"),
        ("LoadImage", "image", "", "image - Invalid image file: "),
        ("LoadVideo", "file", "../v.mp4", "file - Invalid video file: ../v.mp4"),
        ("LoadModel3D", "model", "/m.glb", "model - Invalid file: /m.glb"),
        ("LoadImageOutput", "image", "x.png [output]", "image - Invalid image file: x.png [output]"),
    ],
)
def test_other_files(class_type: str, name: str, value: Any, details: str) -> None:
    assert first(with_input(class_type, name, value), "n")["details"] == details


@pytest.mark.parametrize("value", ["cat.png", "odd name (1).png", "cat.png [input]", {"__value__": "cat.png"}])
def test_listed_files_are_accepted(value: Any) -> None:
    check_graph(with_input("LoadImage", "image", value), CATALOGUE)


@pytest.mark.parametrize(
    "name",
    [
        "sub/dir/a.png",
        "sub/dir/a.png [input]",
        "clipspace/clipspace-mask-123.png [input]",
        "pasted/image.png",
        "drawing.jfif",
        "画像 ä (1).avif",
    ],
)
def test_files_that_loaders_do_not_list_are_left_to_the_server(name: str) -> None:
    check_graph(with_input("LoadImage", "image", name), CATALOGUE)


JOB = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize(
    ("class_type", "name"), [("LoadImage", "image"), ("LoadLatent", "latent"), ("Pack", "file"), ("Pack", "choice")]
)
def test_files_in_a_jobs_folder_are_that_jobs(class_type: str, name: str) -> None:
    graph = with_input(class_type, name, f"{JOB}/0-cat.png")
    assert first(graph, "n")["type"] == "custom_validation_failed"
    check_graph(graph, CATALOGUE, staged_files={f"{JOB}/0-cat.png"})


@pytest.mark.parametrize("value", ["", None])
def test_no_file_may_be_one_of_the_options(value: Any) -> None:
    listed = CATALOGUE | {"Pack": node({"file": [[value, "cat.png"], {"image_upload": True}]}, [], saves=True)}
    check_graph(with_input("Pack", "file", value), listed)


def test_latents_in_folders_are_left_to_the_server() -> None:
    check_graph(with_input("LoadLatent", "latent", "sub/l.latent"), CATALOGUE)
    assert first(with_input("LoadLatent", "latent", "../l.latent"), "n")["type"] == "custom_validation_failed"


def test_a_file_name_cannot_be_linked() -> None:
    for slot in (2, 4, 6, 7):
        assert first(with_input("LoadImage", "image", ["values", slot]), "n")["type"] == "bad_linked_input"


def test_errors_about_file_inputs_do_not_list_the_folder() -> None:
    graph = with_input("LoadImage", "image", ["gone", 0])
    assert "cat.png" not in json.dumps(refused(graph))


def test_idle_nodes_are_not_checked_but_for_files() -> None:
    idle: Nodes = {
        "a": {"class_type": "LoadImage", "inputs": {"image": "zzz.png"}},
        "b": {"class_type": "EmptyImage", "inputs": {"width": "abc"}},
        "c": {"class_type": "LoadLatent", "inputs": {"latent": "l.latent"}},
        "d": {"class_type": "ImageInvert", "inputs": {"image": ["gone", 0]}},
        "e": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "gone.safetensors"}},
    }
    check_graph(image_graph() | idle, CATALOGUE)
    idle["f"] = {"class_type": "Resize", "inputs": {"mode": "file", "mode.like": "zzz.png"}}
    check_graph(image_graph() | idle, CATALOGUE)
    idle["c"]["inputs"]["latent"] = "/dev/zero"
    idle["f"]["inputs"]["mode.like"] = "/dev/zero"
    assert list(refused(image_graph() | idle)) == ["c", "f"]


def test_whether_a_server_knows_an_ending_depends_on_its_machine() -> None:
    """Without a system's table of types these are not listed, and load all the same; pictures always are."""
    catalogue = {
        "LoadAudio": node({"audio": [["a.mp3"], {"audio_upload": True}]}, ["AUDIO"], module="comfy_extras.nodes_audio"),
        "LoadVideo": node({"file": [["a.mp4"], {"video_upload": True}]}, ["VIDEO"], module="comfy_extras.nodes_video"),
        "Show": node({"any": ["*", {}]}, [], saves=True),
    }
    for class_type, name, is_sure in (
        ("LoadAudio", "b.flac", False),
        ("LoadAudio", "b.ogg", False),
        ("LoadAudio", "b.mp3", True),
        ("LoadVideo", "b.mkv", False),
        ("LoadVideo", "b.mp4", True),
    ):
        (input_name,) = catalogue[class_type]["input"]["required"]
        graph = {
            "1": {"class_type": class_type, "inputs": {input_name: name}},
            "2": {"class_type": "Show", "inputs": {"any": ["1", 0]}},
        }
        with pytest.raises(InvalidWorkflow) if is_sure else contextlib.nullcontext():
            check_graph(graph, catalogue)
