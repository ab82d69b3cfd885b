"""Template files: what is wrong with them, on which line, and how a library follows their changes."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidRequest
from core.records.requirements import Requirements
from workflows.templates.library import SHIPPED, Library
from workflows.templates.template_files import check_file

GRAPH: dict[str, Any] = {"1": {"class_type": "A", "inputs": {"text": "{{PROMPT}}", "from": ["2", 0]}}}
GRAPH["2"] = {"class_type": "B", "inputs": {}}


def write(path: Path, value: Any) -> Path:
    """Replace a file as careful editors do."""
    new = path.with_suffix(".new")
    new.write_text(value if isinstance(value, str) else json.dumps(value, indent=1), encoding="utf-8")
    new.replace(path)
    return path


def template(folder: Path, name: str = "t", *, title: str = "", graph: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder / f"{name}.params.json", {"title": title, "parameters": {"prompt": {"type": "string"}}})
    return write(folder / f"{name}.json", GRAPH if graph is None else graph)


def found(path: Path) -> list[tuple[str, int, str]]:
    return [(problem.file.name, problem.line, problem.reason) for problem in check_file(path)]


def test_a_good_template_has_no_problems(tmp_path: Path) -> None:
    path = template(tmp_path)

    assert found(path) == []
    assert found(tmp_path / "t.params.json") == []


def test_syntax_is_told_by_line_and_column(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", '{\n "1": {\n  "class_type" "A"\n }\n}')

    assert found(path) == [("t.json", 3, "column 16: Expecting ':' delimiter")]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('{"1": {"class_type": "A", "inputs": {"a": 1, "a": 2}}}', 1, "stands twice"),
        ('{"1": {"class_type": "A", "inputs": {"a": NaN}}}', 1, "NaN is not JSON"),
        ("", 1, "empty"),
        ('{"nodes": [], "links": []}', 1, "Export (API)"),
        ('{\n"1": {"inputs": {}}}', 2, "class_type"),
        ('{\n"1": {"class_type": "A",\n"inputs": {\n"a": ["9", 0]}}}', 4, "links to node '9', which is missing"),
        ('{\n"1": {"class_type": "A", "inputs": {"a": ["1", 0]}}}', 2, "in a circle"),
    ],
)
def test_what_is_wrong_with_a_graph(tmp_path: Path, text: str, line: int, reason: str) -> None:
    ((file, found_line, found_reason),) = found(write(tmp_path / "t.json", text))

    assert (file, found_line) == ("t.json", line)
    assert reason in found_reason


@pytest.mark.parametrize(
    ("described", "line", "reason"),
    [
        ("5", 4, "a parameter must be an object"),
        ('{"type": "text"}', 4, "type must be one of string"),
        ('{"type": "string",\n"minimum": 1}', 5, "minimum is for integer and number only"),
        ('{"type": "string",\n"defualt": ""}', 5, "'defualt' is no field of a parameter"),
        ('{"type": "integer",\n"default": "x"}', 5, "the default breaks its own rules: Parameter prompt cannot be 'x'"),
        ('{"type": "integer",\n"default": 5, "maximum": 4}', 5, "it must be 4 or less"),
        ('{"type": "integer",\n"minimum": 5, "maximum": 4}', 5, "minimum is above maximum"),
        ('{"type": "integer",\n"random": true, "default": 4}', 5, "can have no default"),
        ('{"type": "number",\n"random": true}', 5, "random is for integer only"),
        ('{"type": "number",\n"maximum": "9"}', 5, "maximum must be a number"),
        ('{"type": "string",\n"max_length": 0}', 5, "max_length must be an integer above 0"),
        ('{"type": "choice"}', 4, "a choice needs choices"),
        ('{"type": "choice",\n"choices": [[]]}', 5, "choices must be a list of values, or an object"),
        ('{"type": "choice",\n"choices": {"a": {"alias": 1}}}', 5, "choices must be a list of values, or an object"),
        ('{"type": "choice",\n"choices": {"a": 1, "b": {"aliases": ["a"]}}}', 5, "'a' stands for two choices"),
        ('{"type": "choice",\n"choices": {"a": {"values": {"X": 1}}}}', 5, "values fill X, which is no placeholder"),
        ('{"type": "choice",\n"choices": {"a": {"values": {"PROMPT": 1}}}}', 5, "that is what value is for"),
        ('{"type": "string",\n"target": ["1", "text"]}', 5, "target must be a list of pairs"),
        ('{"type": "string",\n"target": [["7", "text"]]}', 5, "target node '7' is missing"),
        ('{"type": "string",\n"target": [["1", "from"]]}', 5, "is linked to another node"),
    ],
)
def test_what_is_wrong_with_a_parameter(tmp_path: Path, described: str, line: int, reason: str) -> None:
    path = template(tmp_path)
    write(tmp_path / "t.params.json", f'{{\n"title": "T",\n"parameters": {{\n"prompt": {described}}}}}')
    ((file, found_line, found_reason),) = found(path)

    assert (file, found_line) == ("t.params.json", line)
    assert reason in found_reason


@pytest.mark.parametrize(
    ("requires", "line", "reason"),
    [
        ("[]", 3, "requires must be an object: pool, vram_gb"),
        ('{\n"pool": ""}', 4, "pool must be 1 to 64 of A-Z a-z 0-9 . _ -"),
        ('{\n"pool": null}', 4, "pool must be 1 to 64"),
        ('{\n"vram_gb": "24"}', 4, "vram_gb must be a number from 0 to 4096"),
        ('{\n"vram_gb": 5000}', 4, "vram_gb must be a number from 0 to 4096"),
        ('{\n"pool": "a",\n"gpus": 2}', 5, "'gpus' is no field of requires; there are: pool, vram_gb"),
    ],
)
def test_what_is_wrong_with_its_requirements(tmp_path: Path, requires: str, line: int, reason: str) -> None:
    path = template(tmp_path)
    write(
        tmp_path / "t.params.json", f'{{\n"parameters": {{"prompt": {{"type": "string"}}}},\n"requires": {requires}}}'
    )
    ((file, found_line, found_reason),) = found(path)
    assert (file, found_line) == ("t.params.json", line)
    assert reason in found_reason


@pytest.mark.parametrize(
    ("requires", "read"),
    [
        ({}, None),
        ({"pool": "a"}, Requirements(pool="a")),
        ({"pool": "a", "vram_gb": 24}, Requirements(pool="a", vram_gb=24.0)),
    ],
)
def test_its_requirements_go_with_each_graph(
    tmp_path: Path, requires: dict[str, object], read: Requirements | None
) -> None:
    sidecar = {"parameters": {"prompt": {"type": "string"}}, "requires": requires}
    write(template(tmp_path).with_name("t.params.json"), sidecar)
    filled = Library([tmp_path]).get("t").fill({"prompt": "a"}, draw=lambda low, _high: low)
    assert filled.requires == read
    # 24 and 24.0 are one line of waiting jobs, not two.
    assert filled.requires is None or not isinstance(filled.requires.vram_gb, int)


def test_what_is_wrong_with_a_sidecar(tmp_path: Path) -> None:
    path = template(tmp_path)
    write(tmp_path / "t.params.json", '{"parameters": {\n"prompt": {"type": "string"},\n"other": {"type": "string"}}}')
    assert found(path)[0][:2] == ("t.params.json", 3)
    assert "parameter other goes nowhere" in found(path)[0][2]
    write(tmp_path / "t.params.json", {"parameters": {}})
    assert found(path) == [("t.json", 4, "node 1: {{PROMPT}} has no parameter in the sidecar")]
    write(tmp_path / "t.params.json", "null")
    assert "must be an object" in found(path)[0][2]
    many = {f"p{number}": {"type": "string"} for number in range(201)}
    write(tmp_path / "t.params.json", {"parameters": many})
    assert "there are 201 parameters; at most 200" in found(path)[0][2]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()

    assert "cannot be read" in found(tmp_path / "no-such.json")[0][2]
    assert "cannot be read" in found(tmp_path / "folder.json")[0][2]
    assert "a name is letters" in found(write(tmp_path / "a b.json", GRAPH))[0][2]


def test_an_operators_template_wins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = template(tmp_path, "flux", title="ours")
    template(tmp_path, "another")
    with caplog.at_level(logging.INFO):
        library = Library([SHIPPED, tmp_path])

    assert library.get("flux").title == "ours"
    assert {"another", "flux", "sd3"} <= set(library.names())
    assert [record.message for record in caplog.records] == [
        f"workflow flux: {path} is used in place of {SHIPPED / 'flux.json'}"
    ]
    with pytest.raises(InvalidRequest, match=r"Unknown workflow 'sd4'; there are: another, flux, "):
        library.get("sd4")


def test_changes_are_seen_without_a_restart(tmp_path: Path) -> None:
    path = template(tmp_path, title="one")
    library = Library([tmp_path], check_every_s=0)
    old = library.get("t")

    write(tmp_path / "t.params.json", {"title": "two", "parameters": {"prompt": {"type": "string"}}})
    assert (old.title, library.get("t").title) == ("one", "two")
    (tmp_path / "t.params.json").unlink()
    assert library.get("t").title == ""
    template(tmp_path, "new")
    assert library.names() == ["new", "t"]
    path.unlink()
    assert library.names() == ["new"]


def test_a_change_that_keeps_time_and_size_is_seen(tmp_path: Path) -> None:
    path = template(tmp_path, title="one")
    library = Library([tmp_path], check_every_s=0)
    sidecar = path.with_name("t.params.json")
    before = sidecar.stat()
    write(sidecar, sidecar.read_text(encoding="utf-8").replace("one", "two"))
    os.utime(sidecar, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert sidecar.stat().st_size == before.st_size
    assert library.get("t").title == "two"


def test_the_last_good_version_stays_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = template(tmp_path, title="good")
    library = Library([tmp_path], check_every_s=0)
    write(path, '{"1": ')

    for _ in range(3):
        assert library.get("t").title == "good"
        assert [(problem.file, problem.line) for problem in library.problems()] == [(path, 1)]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    write(path, GRAPH)
    assert library.problems() == []


def test_a_wrong_file_hides_nothing(tmp_path: Path) -> None:
    write(tmp_path / "flux.json", "{")
    write(tmp_path / "lonely.params.json", {})
    library = Library([SHIPPED, tmp_path, tmp_path / "no-such"])

    assert library.get("flux").graph["1"]["class_type"] == "UNETLoader"
    assert [problem.file.name for problem in library.problems()] == ["lonely.params.json", "no-such", "flux.json"]


def test_files_are_looked_at_once_in_a_while(tmp_path: Path) -> None:
    template(tmp_path)
    library = Library([tmp_path], check_every_s=3600)
    template(tmp_path, "new")

    assert library.names() == ["t"]


def test_threads_never_see_half_of_a_change(tmp_path: Path) -> None:
    template(tmp_path, title="0")
    library = Library([tmp_path], check_every_s=0)
    stop = threading.Event()
    seen: list[str] = []
    wrong: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                seen.append(library.get("t").title)
        except InvalidRequest as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(50):
        template(tmp_path, title=str(number))
    stop.set()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert library.get("t").title == "49"
    assert set(seen) <= {str(number) for number in range(50)}


def test_what_the_editor_has_saved_is_no_template_and_says_how_it_becomes_one(tmp_path: Path) -> None:
    saved = {"nodes": [{"id": 1, "type": "A"}], "links": [], "version": 0.4, "last_node_id": 1, "last_link_id": 0}
    write(tmp_path / "saved.json", saved)
    [(name, _line, reason)] = found(tmp_path / "saved.json")
    assert name == "saved.json"
    assert "comfyline workflows convert" in reason
