"""docs/workflows.md: its example works, its errors are the real ones, its tables are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from comfy.simulator.machine.model_list import names
from core.errors import InvalidRequest
from tests.paths import ROOT
from workflows.graphs.model_files import models_of
from workflows.templates.library import SHIPPED, Library
from workflows.templates.modifiers import MODIFIERS, build
from workflows.templates.sidecar import FIELDS
from workflows.templates.template import parse_template
from workflows.templates.template_files import check_file

TEXT = (ROOT / "docs" / "workflows.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
GRAPH, SIDECAR, VALUES, MODIFICATIONS = (json.loads(block) for block in BLOCKS)
POSTCARD = parse_template("postcard", GRAPH, SIDECAR)
ERRORS = re.findall(r"^\| `(\{.*?\})` \| (.+) \|$", TEXT.partition("\n## Errors\n")[2], re.MULTILINE)


def section(title: str) -> str:
    return TEXT.partition(f"\n{title}\n")[2].partition("\n#")[0]


def test_the_example_becomes_what_is_said() -> None:
    filled = POSTCARD.fill(VALUES, draw=lambda lowest, highest: 0)

    assert filled.graph["3"]["inputs"]["blend_mode"] == "multiply"
    assert filled.graph["2"]["inputs"] == {"width": 64, "height": 64, "batch_size": 1, "color": 6323595}
    assert filled.graph["4"]["inputs"]["filename_prefix"] == "card-wet"
    assert list(filled.values) == ["photo", "greeting", "width", "mood"]


def test_there_are_errors_to_look_at() -> None:
    assert len(ERRORS) >= 10


@pytest.mark.parametrize(("values", "message"), ERRORS, ids=[values for values, _ in ERRORS])
def test_the_errors_are_those_that_come(values: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        POSTCARD.fill(json.loads(values), draw=lambda lowest, highest: 0)

    assert caught.value.message == message


def test_a_problem_is_told_as_shown(tmp_path: Path) -> None:
    shown = re.findall(r"^```text\n(.*)\n```$", TEXT, re.MULTILINE)
    (tmp_path / "postcard.json").write_text(BLOCKS[0], encoding="utf-8")
    broken = BLOCKS[1].replace('"integer", "default": 64', '"integer", "default": 60')
    (tmp_path / "postcard.params.json").write_text(broken, encoding="utf-8")

    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in check_file(tmp_path / "postcard.json")] == shown


def test_every_field_is_explained() -> None:
    rows = re.findall(r"^\| (`.+?) \| (.+?) \|", section("### The sidecar"), re.MULTILINE)
    listed = {field: types for names, types in rows for field in re.findall(r"`(\w+)`", names)}

    assert listed.keys() == FIELDS.keys()
    for field, types in listed.items():
        every = len(FIELDS[field][2]) == 6
        assert ("all" if every else set(re.findall(r"`(\w+)`", types))) == ("all" if every else set(FIELDS[field][2]))
        assert every == (types == "all")


def test_the_shipped_templates_are_listed_with_their_parameters() -> None:
    library = Library([SHIPPED])
    assert re.findall(r"^### `(\w+)`$", TEXT, re.MULTILINE) == library.names()
    for name in library.names():
        text = section(f"### `{name}`")
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \| .* \|$", text, re.MULTILINE)
        parameters = library.get(name).parameters.values()
        assert [row[:2] for row in rows] == [(parameter.name, parameter.type) for parameter in parameters]
        assert [row[2] for row in rows] == [default(parameter) for parameter in parameters]


def test_the_models_of_the_shipped_templates_are_listed_with_their_folders() -> None:
    library = Library([SHIPPED])
    rows = re.findall(r"^\| `(.+?)` \| `(\w+)` \| (.+?) \| .+ \|$", section("### Models"), re.MULTILINE)
    listed = {(name, file) for file, _, names in rows for name in re.findall(r"`(\w+)`", names)}
    needed = set()
    for name in library.names():
        template = library.get(name)
        given = {"prompt": "", "input_image": "a.png", "user_img": "a.png"}
        values = {key: value for key, value in given.items() if key in template.parameters}
        graph = template.fill(values, draw=lambda lowest, highest: lowest).graph
        needed |= {(name, model) for model in models_of(graph)}

    assert listed == needed
    # The stand-in has them where the table says.
    assert all(file in names(folder) for file, folder, _ in rows)


def default(parameter: Any) -> str:
    if parameter.required or parameter.random:
        return "required" if parameter.required else "drawn"
    return f"`{json.dumps(parameter.default)}`"


def test_the_modifiers_are_listed() -> None:
    assert re.findall(r"^\| `(\w+)` \|", section("## Modifiers"), re.MULTILINE) == list(MODIFIERS)
    assert build("Text2Image", MODIFICATIONS, Library([SHIPPED]), None).values["seed"] == 42
