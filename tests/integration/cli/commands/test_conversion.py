"""`comfyline workflows convert`, and what the editor saves given to `comfyline submit`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from tests.editor.writer import CATALOGUE, Writer
from tests.integration.api.test_editor_documents import document
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as running:
        running.worker.come_up()
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "saved.json").write_text(json.dumps(document()))
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inputs(graph: dict[str, Any]) -> dict[str, Any]:
    return {node_id: node["inputs"] for node_id, node in graph.items()}


def test_a_server_converts(folder: Path, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["workflows", "convert", "saved.json", "-l", api.url]) == 0
    assert inputs(json.loads(capsys.readouterr().out)) == inputs(GRAPH)

    assert run(["workflows", "convert", "saved.json", "--output", "made.json", "-l", api.url]) == 0
    assert inputs(json.loads((folder / "made.json").read_text())) == inputs(GRAPH)
    assert run(["workflows", "convert", "saved.json", "--output", "made.json", "-l", api.url]) == 2
    assert run(["workflows", "convert", "saved.json", "--output", "made.json", "--force", "-l", api.url]) == 0


def test_a_graph_stays_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["workflows", "convert", "graph.json", "-l", "http://127.0.0.1:9"]) == 0
    assert json.loads(capsys.readouterr().out) == GRAPH


def test_a_saved_object_info_converts_without_a_server(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = Writer()
    writer.root.of_class("Count", {"value": 3})
    (folder / "info.json").write_text(json.dumps(CATALOGUE))
    (folder / "own.json").write_text(json.dumps(writer.document()))

    assert run(["workflows", "convert", "own.json", "--object-info", "info.json"]) == 0
    assert inputs(json.loads(capsys.readouterr().out)) == {"1": {"value": 3}}


def test_what_cannot_be_converted_is_said(folder: Path, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    broken = document()
    broken["nodes"].append({"id": 9, "type": "SetNode", "mode": 0})
    (folder / "saved.json").write_text(json.dumps(broken))

    assert run(["workflows", "convert", "saved.json", "-l", api.url]) == 2
    assert "Node 9 (SetNode)" in capsys.readouterr().err


def test_submit_takes_what_the_editor_saves(folder: Path, api: Api) -> None:
    assert run(["submit", "saved.json", "--no-wait", "-l", api.url]) == 0

    job = api.ledger.jobs.page(limit=1)[0]
    assert inputs(json.loads(api.ledger.jobs.graph(job.id))) == inputs(GRAPH)
    assert api.ledger.reruns.ingredients(job.id).extra_pnginfo == {"workflow": document()}


def test_submit_as_a_task_and_as_a_batch(folder: Path, api: Api) -> None:
    assert run(["submit", "--workflow", "saved.json", "--output", "task.json", "-l", api.url]) == 0
    assert run(["submit", "saved.json", "--over", "1.width=8,16", "--no-wait", "-l", api.url]) == 0

    graphs = [json.loads(api.ledger.jobs.graph(job.id)) for job in api.ledger.jobs.page(limit=3)]
    assert sorted(graph["1"]["inputs"]["width"] for graph in graphs) == [8, 16, 64]
