"""Every shape in which nodes report results."""

from __future__ import annotations

from typing import Any

import pytest

from comfy.client.history import parse_entry
from comfy.client.outputs import ReportedOutput, content_type_of, outputs_of

GRAPH = {node: {"class_type": "Any", "inputs": {}} for node in ("2", "3", "4")}


def _outputs(outputs: dict[str, Any], meta: dict[str, Any] | None = None) -> list[ReportedOutput]:
    entry = {"prompt": [0, "p", GRAPH, {}, []], "outputs": outputs, "status": None, "meta": meta or {}}
    return outputs_of(parse_entry("p", entry))


def _item(filename: str, **more: Any) -> dict[str, Any]:
    return {"filename": filename, "subfolder": "job", "type": "output", **more}


@pytest.mark.parametrize(
    ("key", "filename", "kind", "content_type"),
    [
        ("images", "x_00001_.png", "image", "image/png"),
        ("images", "x_00001_.WEBP", "image", "image/webp"),
        ("images", "x_00001_.svg", "image", "image/svg+xml"),
        ("images", "x_00001_.mp4", "video", "video/mp4"),
        ("images", "x_00001_.webm", "video", "video/webm"),
        ("gifs", "x_00001.mp4", "video", "video/mp4"),
        ("gifs", "x_00001.gif", "video", "image/gif"),
        ("audio", "x_00001_.flac", "audio", "audio/flac"),
        ("audio", "x_00001.opus", "audio", "audio/ogg"),
        ("audio", "x_00001_.mp3", "audio", "audio/mpeg"),
        ("latents", "x_00001_.latent", "latent", "application/octet-stream"),
        ("3d", "mesh_00001_.glb", "file", "model/gltf-binary"),
        ("text", "notes.txt", "text", "text/plain"),
        ("files", "table.json", "file", "application/json"),
        ("images", "mesh.glb", "file", "model/gltf-binary"),
        ("images", "no_extension", "image", "application/octet-stream"),
        ("whatever_a_custom_node_says", "x.bin", "file", "application/octet-stream"),
    ],
)
def test_the_kind_follows_the_key_and_the_file(key: str, filename: str, kind: str, content_type: str) -> None:
    (item,) = _outputs({"3": {key: [_item(filename)]}})
    assert (item.kind, item.content_type, item.key) == (kind, content_type, key)
    assert (item.node_id, item.filename, item.subfolder, item.folder) == ("3", filename, "job", "output")


def test_a_batch_is_several_items_in_order() -> None:
    items = _outputs({"3": {"images": [_item("a_00001_.png"), _item("a_00002_.png")]}})
    assert [item.filename for item in items] == ["a_00001_.png", "a_00002_.png"]


def test_the_flag_beside_an_animation_is_not_a_file() -> None:
    items = _outputs({"3": {"images": [_item("v_00001_.mp4")], "animated": [True]}})
    assert [(item.kind, item.filename) for item in items] == [("video", "v_00001_.mp4")]


def test_inline_text_is_kept_as_text() -> None:
    (item,) = _outputs({"2": {"text": ["1795315357.65"]}})
    assert (item.kind, item.text, item.filename, item.content_type) == ("text", "1795315357.65", None, "text/plain")


def test_a_bare_string_is_one_text_not_one_per_letter() -> None:
    assert [item.text for item in _outputs({"2": {"text": "abc"}})] == ["abc"]


def test_an_unfinished_video_batch_is_nothing() -> None:
    assert _outputs({"2": {"unfinished_batch": [True]}, "3": {"gifs": [{"unfinished_batch": [True]}]}}) == []


def test_unknown_fields_are_kept() -> None:
    (item,) = _outputs({"3": {"gifs": [_item("v.mp4", format="video/h264-mp4", frame_rate=8.0)]}})
    assert item.extra == {"format": "video/h264-mp4", "frame_rate": 8.0}


def test_a_preview_is_marked_as_temporary() -> None:
    (item,) = _outputs({"3": {"images": [{"filename": "t_00001_.png", "subfolder": "", "type": "temp"}]}})
    assert (item.folder, item.subfolder) == ("temp", "")


@pytest.mark.parametrize(
    ("path", "subfolder", "filename", "folder"),
    [
        ("3d/mesh.glb", "3d", "mesh.glb", "output"),
        ("mesh.obj [temp]", "", "mesh.obj", "temp"),
        ("a\\b\\mesh.glb", "a/b", "mesh.glb", "output"),
    ],
)
def test_a_3d_preview_is_a_path(path: str, subfolder: str, filename: str, folder: str) -> None:
    (item,) = _outputs({"3": {"result": [path, {"position": 1}]}})
    assert (item.kind, item.subfolder, item.filename, item.folder) == ("file", subfolder, filename, folder)


@pytest.mark.parametrize("value", ["/etc/passwd.txt", "../secret.png", "a/../../b.png", "just words", 3])
def test_a_result_that_is_no_path_below_a_folder_is_a_text(value: object) -> None:
    (item,) = _outputs({"3": {"result": [value]}})
    assert (item.kind, item.filename, item.text) == ("text", None, str(value))


def test_nodes_of_an_expansion_report_for_the_node_of_the_graph() -> None:
    meta = {"2.0.0.3": {"node_id": "2.0.0.3", "display_node": "2", "parent_node": "2", "real_node_id": "2.0.0.3"}}
    items = _outputs({"2.0.0.3": {"images": [_item("t.png")]}, "4": {"images": [_item("e.png")]}}, meta)
    assert [item.node_id for item in items] == ["2", "4"]
    assert [item.node_id for item in _outputs({"2.0.0.3": {"images": [_item("t.png")]}})] == ["2"]


@pytest.mark.parametrize("value", [None, [None], [[]], {}, "", [], [{"unfinished_batch": [True]}]])
def test_what_is_empty_is_left_out(value: object) -> None:
    assert _outputs({"3": {"images": value, "result": value}}) == []


@pytest.mark.parametrize(
    ("key", "value", "texts"),
    [
        ("text", [3, 2.5, True], ["3", "2.5", "true"]),
        ("text", 7, ["7"]),
        ("text", [{"a": [1]}, "b"], ['{"a": [1]}', "b"]),
        ("text", [float("nan")], ["NaN"]),
        ("text", ["\ud800", ""], ["\ud800", ""]),
        ("count", [7], ["7"]),
        ("images", "x.png", ["x.png"]),
        ("images", [{"filename": 3}], ['{"filename": 3}']),
        ("tags", ["a", "b"], ['["a", "b"]']),
        ("pair", [[1, 2], "x", None], ['[[1, 2], "x"]']),
        ("scores", [float("inf"), 1.0], ['["Infinity", 1.0]']),
        ("mesh", {"vertices": [[0, float("-inf")]]}, ['{"vertices": [[0, "-Infinity"]]}']),
    ],
)
def test_values_become_texts_or_json(key: str, value: object, texts: list[str]) -> None:
    items = _outputs({"3": {key: value}})
    assert [(item.kind, item.key, item.filename) for item in items] == [("text", key, None)] * len(texts)
    assert [item.text for item in items] == texts
    is_json = [text.startswith(("[", "{")) for text in texts]
    assert [item.content_type == "application/json" for item in items] == is_json


def test_values_beside_files_are_kept() -> None:
    items = _outputs({"3": {"images": [_item("a.png"), "a caption", {"score": 1}], "animated": [False]}})
    assert [item.filename or item.text for item in items] == ["a.png", '["a caption", {"score": 1}]']


def test_a_file_that_is_not_in_a_list_is_a_file() -> None:
    (item,) = _outputs({"3": {"images": _item("x.png")}})
    assert item.filename == "x.png"


def test_a_node_that_names_a_file_twice_has_one() -> None:
    items = _outputs({"3": {"images": [_item("a.png"), _item("a.png")], "gifs": [_item("a.png")]}})
    assert [item.filename for item in items] == ["a.png"]


@pytest.mark.parametrize(
    ("filename", "found"),
    [
        ("deep/a.png", ("job/deep", "a.png", "output")),
        ("a.png [temp]", ("job", "a.png", "temp")),
        ("/etc/hostname", ("job", "/etc/hostname", "output")),
    ],
)
def test_a_folder_in_a_files_name(filename: str, found: tuple[str, str, str]) -> None:
    (item,) = _outputs({"3": {"images": [_item(filename)]}})
    assert (item.subfolder, item.filename, item.folder) == found


def test_content_types_do_not_depend_on_the_machine() -> None:
    assert content_type_of("A.B.PNG") == "image/png"
    assert content_type_of("noext") == "application/octet-stream"
