"""Every shape in which nodes report results."""

from __future__ import annotations

from typing import Any

import pytest

from comfy.history import parse_entry
from comfy.outputs import OutputItem, content_type_of, outputs_of

GRAPH = {node: {"class_type": "Any", "inputs": {}} for node in ("2", "3", "4")}


def _outputs(outputs: dict[str, Any], meta: dict[str, Any] | None = None) -> list[OutputItem]:
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
    assert (item.node_id, item.filename, item.subfolder, item.type) == ("3", filename, "job", "output")


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
    assert (item.type, item.subfolder) == ("temp", "")


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
    assert (item.kind, item.subfolder, item.filename, item.type) == ("file", subfolder, filename, folder)


@pytest.mark.parametrize("value", ["/etc/passwd.txt", "../secret.png", "a/../../b.png", "just words", "", 3, None])
def test_a_result_that_is_no_path_below_a_folder_is_left_out(value: object) -> None:
    assert _outputs({"3": {"result": [value]}}) == []


def test_nodes_of_an_expansion_report_for_the_node_of_the_graph() -> None:
    meta = {"2.0.0.3": {"node_id": "2.0.0.3", "display_node": "2", "parent_node": "2", "real_node_id": "2.0.0.3"}}
    items = _outputs({"2.0.0.3": {"images": [_item("t.png")]}, "4": {"images": [_item("e.png")]}}, meta)
    assert [item.node_id for item in items] == ["2", "4"]
    assert [item.node_id for item in _outputs({"2.0.0.3": {"images": [_item("t.png")]}})] == ["2"]


@pytest.mark.parametrize("value", [None, True, 3, "x.png", {"filename": "x.png"}, [None], [{"filename": 3}], [[]]])
def test_odd_values_are_left_out(value: object) -> None:
    assert _outputs({"3": {"images": value}}) == []


def test_content_types_do_not_depend_on_the_machine() -> None:
    assert content_type_of("A.B.PNG") == "image/png"
    assert content_type_of("noext") == "application/octet-stream"
