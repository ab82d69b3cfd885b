"""What in a graph stands for a file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidRequest, MissingAsset
from workflows.graphs.references import MAX_REFERENCES, find_references, put_all

ID = "0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9"


def file_kind(class_type: str, name: str) -> str | None:
    return {("LoadImage", "image"): "image", ("LoadVideo", "file"): "video"}.get((class_type, name))


def graph(value: Any, class_type: str = "LoadImage", name: str = "image") -> dict[str, dict[str, Any]]:
    return {"7": {"class_type": class_type, "inputs": {name: value, "other": 3}}}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("https://example.com/a.png", "url"),
        ("HTTP://example.com/a.png", "url"),
        ("data:image/png;base64,AAAA", "data"),
        ("data:,x", "data"),
        (ID, "asset"),
        (f"{ID}/room.png", "asset"),
    ],
)
def test_strings_in_file_inputs(value: str, field: str) -> None:
    workflow = graph(value)
    (found,) = find_references(workflow, file_kind)
    assert getattr(found, field) == value
    assert (found.kind, found.place) == ("image", "node 7, input image")

    changed = found.put(workflow, "job/0-a.png")
    assert changed["7"]["inputs"]["image"] == "job/0-a.png"
    assert workflow == graph(value), "it may be somebody else's"


@pytest.mark.parametrize("value", ["a.png", "room/a.png", "ftp://x/a", "data.png", "database:x", 5, ["4", 0], f"x{ID}"])
def test_file_names_and_links_are_none(value: Any) -> None:
    assert find_references(graph(value), file_kind) == []


def test_a_url_elsewhere_is_a_text() -> None:
    assert find_references(graph("https://example.com", "CLIPTextEncode", "text"), file_kind) == []


def test_a_templates_file_counts_only_in_file_inputs() -> None:
    files = {"style.png": Path("/t/style.png")}
    (found,) = find_references(graph("style.png"), file_kind, files)
    assert found.file == files["style.png"]
    assert find_references(graph("style.png", "CLIPTextEncode", "text"), file_kind, files) == []


def test_tagged_objects_count_at_any_depth() -> None:
    tagged = {"__type": "core/ASSET", "info": {"id": "x", "hash": "y"}}
    workflow = graph({"deep": [1, dict(tagged)]}, "Any", "stack")
    workflow["8"] = {"class_type": "LoadVideo", "inputs": {"file": dict(tagged)}, "_meta": {"title": dict(tagged)}}
    found = find_references(workflow, file_kind)
    assert [(each.asset, each.kind) for each in found] == [("x", ""), ("x", "video"), ("x", "")]
    before = copy.deepcopy(workflow)
    changed = put_all(workflow, found, "fgh")
    assert changed["7"]["inputs"]["stack"] == {"deep": [1, "f"]}
    assert (changed["8"]["inputs"]["file"], changed["8"]["_meta"]["title"]) == ("g", "h")
    assert workflow == before


@pytest.mark.parametrize("info", [None, {}, {"id": ""}, {"id": 3}, "x"])
def test_a_tagged_object_without_an_id_is_refused(info: Any) -> None:
    with pytest.raises(MissingAsset, match=r"[nN]ode 7"):
        find_references(graph({"__type": "core/ASSET", "info": info}), file_kind)


def test_too_many_are_refused() -> None:
    node = {"class_type": "LoadImage", "inputs": {"image": "https://example.com/a.png"}}
    many = {str(number): {**node, "inputs": dict(node["inputs"])} for number in range(MAX_REFERENCES + 1)}  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="more than 64"):
        find_references(many, file_kind)


def test_several_files_of_one_input() -> None:
    workflow = graph({"__value__": ["room.png", ID, "https://example.com/a.png"]})
    first, second = find_references(workflow, file_kind)
    assert (first.asset, second.url) == (ID, "https://example.com/a.png")
    changed = second.put(first.put(workflow, "job/0-a.png"), "job/1-a.png")
    assert changed["7"]["inputs"]["image"] == {"__value__": ["room.png", "job/0-a.png", "job/1-a.png"]}
    assert find_references(graph({"__value__": [ID]}, "CLIPTextEncode", "text"), file_kind) == []
