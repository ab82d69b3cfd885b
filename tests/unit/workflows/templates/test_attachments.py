"""The files a template brings along: which are accepted, how a library follows them, and what names them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from workflows.templates.attachments import MAX_FILE_BYTES, MAX_FILES
from workflows.templates.fill import Filled
from workflows.templates.library import SHIPPED, Library
from workflows.templates.template import Template
from workflows.templates.template_files import check_file, read_template

SIDECAR: dict[str, Any] = {
    "parameters": {
        "photo": {"type": "image", "default": "room.png"},
        "caption": {"type": "string", "default": "hello"},
        "style": {
            "type": "choice",
            "default": "oak",
            "choices": {
                "oak": {"values": {"STYLE_IMAGE": "oak.png"}},
                "bamboo": {"values": {"STYLE_IMAGE": "bamboo.png"}},
                "plain": {"values": {"STYLE_IMAGE": "elsewhere.png"}},
            },
        },
        "material": {"type": "choice", "choices": ["oak", "bamboo"], "default": "oak"},
        "mask": {"type": "string", "required": False, "target": [["5", "image"]]},
    }
}
GRAPH: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{{PHOTO}}"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "{{STYLE_IMAGE}}"}},
    "3": {"class_type": "LoadImage", "inputs": {"image": "{{MATERIAL}}.png"}},
    "4": {"class_type": "Caption", "inputs": {"text": "{{CAPTION}}", "style": "{{STYLE}}", "from": ["1", 0]}},
    "5": {"class_type": "LoadImageMask", "inputs": {"image": "mask.png"}},
}
NAMES = ("oak.png", "bamboo.png", "mask.png", "room.png")


def write(folder: Path, graph: Any = GRAPH, sidecar: Any = SIDECAR, names: tuple[str, ...] = NAMES) -> Path:
    """A template `t` with the files; returns the folder of the files."""
    files = folder / "t.files"
    files.mkdir(parents=True)
    (folder / "t.json").write_text(json.dumps(graph))
    if sidecar is not None:
        (folder / "t.params.json").write_text(json.dumps(sidecar))
    for name in names:
        (files / name).write_bytes(name.encode())
    return files


def read(folder: Path) -> Template:
    template, problems = read_template(folder / "t.json")
    assert template is not None, problems
    return template


def fill(folder: Path, **values: Any) -> Filled:
    return read(folder).fill(values, draw=lambda lowest, highest: lowest)


def test_a_template_has_the_files_beside_it(tmp_path: Path) -> None:
    files = write(tmp_path)
    (files / ".DS_Store").write_bytes(b"left by a desktop")
    (tmp_path / "plain.json").write_text(json.dumps({"1": GRAPH["5"]}))

    assert read(tmp_path).files == {name: files / name for name in NAMES}
    assert check_file(tmp_path / "t.json") == check_file(tmp_path / "t.params.json") == []
    plain, _ = read_template(tmp_path / "plain.json")
    assert plain is not None
    assert plain.files == plain.fill({}, draw=lambda lowest, highest: lowest).files == {}


def test_constants_and_choices_name_files(tmp_path: Path) -> None:
    files = write(tmp_path)

    # room.png is the default of the photo, mask.png stands in the graph, material makes up a name.
    assert fill(tmp_path).files == {name: files / name for name in ("room.png", "oak.png", "mask.png")}
    assert fill(tmp_path, style="bamboo").files.keys() == {"room.png", "bamboo.png", "oak.png", "mask.png"}
    assert fill(tmp_path, style="plain", material="bamboo").files.keys() == {"room.png", "bamboo.png", "mask.png"}


def test_a_picture_may_be_a_file_of_the_template(tmp_path: Path) -> None:
    write(tmp_path)

    assert "bamboo.png" in fill(tmp_path, photo="bamboo.png").files
    assert fill(tmp_path, photo="mine.png").files.keys() == {"oak.png", "mask.png"}
    assert fill(tmp_path, photo="https://example.org/room.png").files.keys() == {"oak.png", "mask.png"}


def test_a_clients_text_names_no_file(tmp_path: Path) -> None:
    write(tmp_path)
    filled = fill(tmp_path, caption="bamboo.png", mask="bamboo.png")

    assert filled.graph["4"]["inputs"]["text"] == filled.graph["5"]["inputs"]["image"] == "bamboo.png"
    # mask.png stood where the client's text stands now.
    assert filled.files.keys() == {"room.png", "oak.png"}


def test_without_a_sidecar_what_a_client_gives_is_text(tmp_path: Path) -> None:
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "{{PICTURE}}"}}, "2": GRAPH["5"]}
    write(tmp_path, graph, None)

    assert fill(tmp_path, picture="oak.png").files.keys() == {"mask.png"}


def test_a_link_is_no_name(tmp_path: Path) -> None:
    graph = {"oak.png": {"class_type": "A", "inputs": {}}, "2": {"class_type": "B", "inputs": {"from": ["oak.png", 0]}}}
    write(tmp_path, graph, None)

    assert fill(tmp_path).files == {}


@pytest.mark.parametrize("name", ["a\\b.png", "C:a.png", "a%2fb.png", "a.png [output]", "a.png [input]", "~a.png"])
def test_names_that_are_no_names_of_input_files(tmp_path: Path, name: str) -> None:
    files = write(tmp_path, names=(name,))

    assert [(problem.file, problem.line, problem.reason) for problem in check_file(tmp_path / "t.json")] == [
        (files / name, 0, "its name cannot be the name of an input file")
    ]


def reasons(folder: Path) -> list[tuple[str, str]]:
    return [(problem.file.name, problem.reason) for problem in check_file(folder / "t.json")]


def test_only_files_of_the_folder_itself(tmp_path: Path) -> None:
    files = write(tmp_path / "ours", names=("a.png",))
    (tmp_path / "secret.png").write_bytes(b"secret")
    (files / "b.png").symlink_to("a.png")
    assert reasons(tmp_path / "ours") == []

    (files / "c-out.png").symlink_to("../../secret.png")
    (files / "d-circle.png").symlink_to("d-circle.png")
    (files / "e-nowhere.png").symlink_to("no-such.png")
    (files / "f-folder").mkdir()
    os.mkfifo(files / "g-pipe.png")
    out, none = "it is a link that leads out of the folder", "it is no regular file"

    assert reasons(tmp_path / "ours") == [
        ("c-out.png", out),
        ("d-circle.png", none),
        ("e-nowhere.png", none),
        ("f-folder", none),
        ("g-pipe.png", none),
    ]


def test_too_many_and_too_large(tmp_path: Path) -> None:
    files = write(tmp_path, names=tuple(f"{number}.png" for number in range(MAX_FILES)))
    os.truncate(files / "0.png", MAX_FILE_BYTES)
    assert reasons(tmp_path) == []

    os.truncate(files / "0.png", MAX_FILE_BYTES + 1)
    assert reasons(tmp_path) == [("0.png", "it is over 25 MB")]
    (files / "one-more.png").touch()
    assert reasons(tmp_path)[-1] == ("t.files", "it holds more than 50 files")


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"1": GRAPH["5"]}))
    (tmp_path / "t.files").touch()

    assert reasons(tmp_path) == [("t.files", "cannot be read: Not a directory")]


def test_a_library_follows_the_files(tmp_path: Path) -> None:
    files = write(tmp_path, names=("oak.png",))
    library = Library([tmp_path], check_every_s=0)
    assert library.get("t").files.keys() == {"oak.png"}

    (files / "new.png").touch()
    assert library.get("t").files.keys() == {"oak.png", "new.png"}
    # Grown in place: the folder itself does not change.
    os.truncate(files / "new.png", MAX_FILE_BYTES + 1)
    assert [str(problem) for problem in library.problems()] == [f"{files / 'new.png'}: it is over 25 MB"]
    assert library.get("t").files.keys() == {"oak.png", "new.png"}
    (files / "new.png").unlink()
    assert library.problems() == []
    assert library.get("t").files.keys() == {"oak.png"}
    (files / "oak.png").unlink()
    files.rmdir()
    assert library.get("t").files == {}


def test_files_without_a_graph_are_told(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "t.json").unlink()
    (tmp_path / "t.params.json").unlink()

    (problem,) = Library([tmp_path]).problems()
    assert (problem.file.name, problem.reason) == ("t.files", "there is no graph beside this folder")


def test_shipped_pictures_are_small() -> None:
    template = Library([SHIPPED]).get("interior_design")

    assert len(template.files) == 3
    assert all(path.stat().st_size < 100_000 for path in template.files.values())
