"""Jobs from templates over HTTP: which templates there are, what is refused, and what is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.waiting import eventually

PARAMETERS: dict[str, Any] = {
    "width": {"type": "integer", "default": 64, "minimum": 16, "maximum": 256},
    "tint": {"type": "integer", "minimum": 0, "maximum": 1000, "random": True, "target": [["1", "color"]]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workflows")
    graph = json.loads(json.dumps(GRAPH))
    graph["1"]["inputs"]["width"] = "{{WIDTH}}"
    (folder / "tile.json").write_text(json.dumps(graph))
    (folder / "tile.params.json").write_text(json.dumps({"title": "A tile", "parameters": PARAMETERS}))
    return folder


@pytest.fixture(scope="module")
def api(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"), workflows_dir=folder)) as running:
        running.worker.come_up()
        yield running


def test_a_job_is_made_of_the_values_and_shows_those_that_were_used(api: Api) -> None:
    answer = api.post("/workflows/tile", {"parameters": {"width": 128}, "priority": 2, "timeout": 9, "metadata": "m"})

    assert answer.status_code == 201, answer.text
    shown = answer.json()
    assert shown["parameters"]["width"] == 128
    assert 0 <= shown["parameters"]["tint"] <= 1000
    assert (shown["priority"], shown["metadata"]) == (2, "m")
    job = api.ledger.jobs.get(shown["id"])
    assert (job.parameters, job.timeout_s) == (shown["parameters"], 9.0)
    first = json.loads(api.ledger.jobs.graph(shown["id"]))["1"]["inputs"]
    assert (first["width"], first["color"]) == (128, shown["parameters"]["tint"])


def test_the_list_by_template(api: Api) -> None:
    from_template = api.post("/workflows/tile", {"parameters": {"width": 64}}).json()["id"]
    plain = api.submit()

    listed = [job["id"] for job in api.get("/api/v2/jobs", params={"template": "tile"}).json()["jobs"]]

    assert from_template in listed
    assert plain not in listed
    assert api.get("/api/v2/jobs", params={"template": "nothing"}).json()["jobs"] == []


def test_a_job_without_a_template_shows_no_parameters(api: Api) -> None:
    assert "parameters" not in api.post("/api/v2/jobs", {"workflow": GRAPH}).json()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "The body must be an object with parameters."),
        ({}, "parameters is missing: it must be an object."),
        ({"width": 128}, "parameters is missing"),
        ({"parameters": {}, "width": 128}, "Unknown field 'width'"),
        ({"parameters": {"width": 8}}, "Parameter width cannot be 8: it must be from 16 to 256."),
        ({"parameters": {"width": "64"}}, "Parameter width cannot be '64': it must be an integer."),
        ({"parameters": {"height": 8}}, "Unknown parameter 'height' for tile; there are: width, tint."),
        ({"parameters": {}, "timeout": 0}, "timeout must be a number above 0 and at most 604800, not 0."),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_allowed(api: Api, body: Any, words: str) -> None:
    before = len(api.publisher.turns)

    answer = api.post("/workflows/tile", body)

    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"]
    assert len(api.publisher.turns) == before


def test_an_unknown_workflow_is_answered_with_the_known_ones(api: Api) -> None:
    for answer in (api.get("/workflows/nothing"), api.post("/workflows/nothing", {"parameters": {}})):
        assert answer.status_code == 404
        assert "tile" in answer.json()["error"]["message"]


def test_a_file_is_taken_up_while_the_server_runs_and_a_wrong_one_is_named(api: Api, folder: Path) -> None:
    assert "tile" in {found["name"] for found in api.get("/workflows").json()["workflows"]}
    (folder / "late.json").write_text((folder / "tile.json").read_text())
    (folder / "broken.json").write_text('{\n  "1": {\n}')

    def found() -> bool:
        listed = api.get("/workflows").json()
        names = {template["name"] for template in listed["workflows"]}
        return "late" in names and [problem["file"] for problem in listed["problems"]] == ["broken.json"]

    assert eventually(found, timeout_s=15)
    assert api.post("/workflows/late", {"parameters": {"width": 32}}).status_code == 201
