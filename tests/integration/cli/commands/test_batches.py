"""`comfyline submit --over` and `comfyline batches`, against a server whose jobs the test moves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from core.records.job_error import JobError
from tests.integration.api_fixtures import INSTANCE, Api, running_api, settings_for
from tests.makers import GRAPH


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as running:
        running.worker.come_up()
        yield running


@pytest.fixture
def api(shared_api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_BASE_URL", shared_api.url)
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    shared_api.worker.beat()
    yield shared_api
    for batch in shared_api.ledger.batches.page(limit=1000):
        shared_api.ledger.batch_work.ask_cancel(batch.id)
        while shared_api.ledger.batch_work.cancel_some(batch.id)[1]:
            pass


def answered(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def submitted(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["submit", "graph.json", "--no-wait", "--json", *arguments]) == 0
    return answered(capsys)


def test_it_follows_the_batch_and_saves_what_is_missing(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["submit", "graph.json", "--over", "1.color=1..3", "--label", "followed", "--output", "out"]
    worker = threading.Thread(target=lambda: [api.worker.run_next(f"picture {n}".encode()) for n in range(3)])
    worker.start()
    assert run(command) == 0
    worker.join()
    shown = capsys.readouterr().out
    assert "100%  completed: 3 succeeded" in shown
    files = sorted((tmp_path / "out").rglob("*.png"))
    assert len(files) == 3
    kept, lost = files[0], files[1]
    kept.write_bytes(b"x" * len(kept.read_bytes()))
    lost.unlink()

    assert run(command) == 0
    assert capsys.readouterr().out.count("Saved ") == 1
    assert kept.read_bytes().startswith(b"xx"), "what is there is not fetched again"
    assert lost.exists()
    assert len(api.ledger.batches.page(label="followed")) == 1


def test_the_same_arguments_are_the_same_batch_and_others_are_not(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("one, two\n\nthree\n")
    over = ["--over", "2.filename_prefix=@names.txt", "--over", "1.color=5,6"]
    first = submitted(capsys, *over)
    assert first["total"] == 4
    assert [each["values"] for each in first["over"]] == [["one, two", "three"], [5, 6]]
    assert submitted(capsys, *over)["id"] == first["id"]
    assert submitted(capsys, *over, "--label", "again")["id"] != first["id"]
    (tmp_path / "names.txt").write_text("one, two\nfour\n")
    assert submitted(capsys, *over)["id"] != first["id"]


def test_side_by_side_and_no_more_than_so_many_at_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    over = ["--over", "1.color=1..3", "--over", "1.width=64,128,192", "--zip", "--max-running", "2", "--priority", "4"]
    batch = submitted(capsys, *over)
    assert (batch["total"], batch["max_running"], batch["priority"]) == (3, 2, 4)


def test_files_of_this_machine_are_no_other_batch_when_they_are_sent_again(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = (Path(__file__).parents[3] / "docs").rglob("*.png")
    content = next(picture, None)
    if content is None:
        pytest.skip("there is no picture at hand")
    (tmp_path / "photo.png").write_bytes(content.read_bytes())
    graph = {**GRAPH, "9": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}}
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    first = submitted(capsys, "--over", "1.color=1..2")
    assert submitted(capsys, "--over", "1.color=1..2")["id"] == first["id"]


def test_a_failed_job_is_told_and_made_again(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    batch = submitted(capsys, "--over", "1.color=1..1", "--label", "failing")
    claim = api.ledger.claims.claim(INSTANCE)
    assert claim is not None
    api.ledger.claims.fail(claim, JobError(code="node_failed", message="too dark", node_id="1", class_type="X"))
    assert run(["submit", "graph.json", "--over", "1.color=1..1", "--label", "failing"]) == 1
    assert "1 x too dark (node 1, X)" in capsys.readouterr().out
    assert run(["batches", "retry", batch["id"], "--json"]) == 0
    assert answered(capsys)["counts"]["queued"] == 1


def test_batches_are_listed_shown_paused_resumed_and_cancelled(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    batch = submitted(capsys, "--over", "1.color=1..4", "--label", "kept")
    assert run(["batches", "list", "--label", "kept"]) == 0
    assert capsys.readouterr().out.split("\t")[:5] == [batch["id"], "running", "0%", "4", "kept"]
    for action, status in (("pause", "paused"), ("resume", "running"), ("cancel", "completed")):
        assert run(["batches", action, batch["id"], "--json"]) == 0
        assert answered(capsys)["status"] == status
    assert run(["batches", "show", batch["id"]]) == 0
    shown = capsys.readouterr().out
    assert "4 canceled" in shown
    assert "1.color: 4 values, 1, 2, 3, ..." in shown
    assert run(["submit", "graph.json", "--over", "1.color=1..4", "--label", "kept"]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["graph.json", "--over", "color"], "NAME=VALUES"),
        (["graph.json", "--over", "1.color=@nothing.txt"], "nothing.txt"),
        (["graph.json", "--over", "1.color=[1"], "--over 1.color=[1"),
        (["graph.json", "--over", "1.colour=1..3"], "1.color"),
        (["graph.json", "--over", "1.color=1..3", "--over", "1.color=1..3"], "twice"),
        (["graph.json", "--max-running", "2"], "--over"),
        (["graph.json", "--over", "1.color=1..3", "-p", "seed=1"], "-p"),
        (["nothing", "--over", "1.color=1..3"], "no such workflow"),
        (["--over", "1.color=1..3"], "name one"),
        (["--workflow", "graph.json", "--output", "x.json", "--over", "1.color=1..3"], "--over"),
    ],
)
def test_what_cannot_be_meant_is_said(
    api: Api, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["submit", *arguments]) == 2
    assert words in capsys.readouterr().err
