"""Jobs once more, many at once, and what a batch made, from the command line."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import cli.remote.client
from cli.main import run
from tests.batch_rows import picture, put_batch
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as api:
        api.worker.come_up()
        yield api


@pytest.fixture
def api(shared_api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A server that the commands find, and a working directory with a graph."""
    monkeypatch.setenv("COMFY_BASE_URL", shared_api.url)
    monkeypatch.setattr(cli.remote.client, "POLL_S", 0.05)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    shared_api.worker.beat()
    for job in shared_api.ledger.jobs.page(statuses=["queued"], limit=1000):
        shared_api.ledger.jobs.cancel(job.id)
    return shared_api


def test_a_label_is_given_and_found(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "graph.json", "--label", "tuesday", "--no-wait", "--json"]) == 0
    job = json.loads(capsys.readouterr().out)
    assert job["label"] == "tuesday"
    assert run(["list", "--label", "tuesday", "--json"]) == 0
    assert [each["id"] for each in json.loads(capsys.readouterr().out)] == [job["id"]]
    assert run(["list", "--label", "a", "--label", "b"]) == 2
    assert run(["list", "--label", "=x"]) == 2


def test_the_task_of_a_graph_file_has_none(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "--workflow", "graph.json", "--output", "t.json", "--label", "x"]) == 2
    assert "has no label" in capsys.readouterr().err


def test_a_job_once_more(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    job_id = api.submit()
    command = ["rerun", job_id[:8], "--set", "1.width=128", "--label", "again", "--same-seed", "--no-wait", "--json"]
    assert run(command) == 0
    job = json.loads(capsys.readouterr().out)
    assert (job["rerun_of"], job["label"]) == (job_id, "again")
    assert json.loads(api.ledger.jobs.graph(job["id"]))["1"]["inputs"]["width"] == 128
    assert run(["rerun", job_id, "--set", "width"]) == 2
    assert run(["rerun", job_id, "--set", "1.width=1", "--set", "1.width=2"]) == 2
    assert run(["rerun", job_id, "--set", "1.widht=1"]) == 2
    assert "Most like it are: 1.width" in capsys.readouterr().err


def test_without_yes_nothing_happens(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [api.submit(label="sweep") for _ in range(3)]
    assert run(["cancel", "--label", "sweep"]) == 0
    assert "3 jobs match (3 queued). Nothing was done" in capsys.readouterr().out
    assert api.ledger.jobs.get(jobs[0]).status == "queued"
    assert run(["cancel", "--label", "sweep", "--yes"]) == 0
    assert "3 jobs cancelled" in capsys.readouterr().out
    assert {api.ledger.jobs.get(job_id).status for job_id in jobs} == {"canceled"}
    assert run(["delete", "--label", "sweep", "--status", "canceled", "--yes", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["done"], answer["left"], answer["dry_run"]) == (3, 0, False)
    assert run(["delete", "--label", "sweep", "--yes"]) == 0
    assert "0 jobs match." in capsys.readouterr().out


def test_a_purge_leaves_what_runs(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    running = api.submit(label="purged")
    api.worker.claim(running)
    waiting = api.submit(label="purged")
    assert run(["purge", "--label", "purged", "--yes"]) == 0
    assert api.ledger.jobs.get(waiting).status == "canceled"
    assert api.ledger.jobs.get(running).status == "running"
    api.ledger.jobs.cancel(running)


@pytest.mark.parametrize(
    "command",
    [
        ["cancel"],
        ["cancel", "--yes"],
        ["cancel", "--tenant", "default", "--yes"],
        ["cancel", "some-id", "--label", "x"],
        ["delete", "some-id", "--yes"],
        ["purge", "--yes"],
        ["purge", "--status", "running", "--yes"],
        ["cancel", "--status", "succeeded"],
        ["cancel", "--label", "x", "--since", "yesterday"],
    ],
)
def test_what_is_not_said_clearly_is_not_done(api: Api, command: list[str]) -> None:
    job_id = api.submit()
    assert run(command) == 2
    assert api.ledger.jobs.get(job_id).status == "queued"


def test_what_a_batch_made(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    batch, jobs = put_batch(api.ledger, [{"seed": 1}, {"seed": 2}])
    for job in jobs:
        api.worker.run(job.id, picture("x", (9, 9, 90)))
    assert run(["batches", "outputs", batch, "-o", "all.zip"]) == 0
    assert len(zipfile.ZipFile("all.zip").namelist()) == 3
    assert run(["batches", "table", batch, "-o", "t.json"]) == 0
    assert [row["seed"] for row in json.loads(Path("t.json").read_text())["rows"]] == [1, 2]
    assert run(["batches", "table", batch]) == 0
    assert Path(f"batch-{batch}.csv").read_text().startswith("index,job_id,status,seed")
    for name, kind in (("s.png", "PNG"), ("s.webp", "WEBP")):
        assert run(["batches", "sheet", batch, "-o", name, "--cell", "128"]) == 0
        with Image.open(name) as image:
            assert image.format == kind
    assert run(["batches", "sheet", batch, "--page", "9"]) == 2
    assert run(["batches", "outputs", "none"]) == 2
    assert not Path("batch-none.zip").exists()
