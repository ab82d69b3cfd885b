"""Usage and the book of acts from the command line, over a real server."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from cli.exit_codes import EXIT_OK, EXIT_USAGE
from cli.main import run
from core.records.usage import GpuTime
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"), gpu_prices="nothing like it=1 EUR")) as running:
        running.worker.come_up()
        for _ in range(2):
            running.worker.beat()
            answer = running.post("/api/v2/jobs", {"workflow": GRAPH})
            claim = running.worker.claim(answer.json()["id"])
            running.ledger.outputs.succeed_at_once(
                claim, [], outputs_reused=False, spent=GpuTime(run_ms=1500, load_ms=500)
            )
        yield running


@pytest.fixture(autouse=True)
def _server(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_BASE_URL", api.url)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(arguments) == EXIT_OK, capsys.readouterr().err
    return capsys.readouterr().out.strip()


def test_lines_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    [line] = said(capsys, "usage", "--since", "7d").splitlines()
    assert line.split("\t")[:6] == ["default", "4.0 s", "3.0 s", "1.0 s", "0.0 s", "2"]
    by_two = said(capsys, "usage", "--by", "template", "--by", "day").splitlines()
    assert by_two[0].split("\t")[0] == "-"


def test_csv_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    [row] = csv.DictReader(io.StringIO(said(capsys, "usage", "--by", "tenant", "--csv")))
    assert (row["tenant"], row["gpu_s"], row["succeeded"]) == ("default", "4.0", "2")
    report: dict[str, Any] = json.loads(said(capsys, "usage", "--json"))
    assert (report["total"]["run_s"], report["currency"], report["total"]["cost"]) == (3.0, "EUR", 0.0)
    assert report["total"]["unpriced_s"] == 4.0, "that it has no price is told"


@pytest.mark.parametrize("arguments", [("--by", "color"), ("--since", "noon"), ("--csv", "--json"), ("--tenant", "*")])
def test_what_cannot_be_asked(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["usage", *arguments]) == EXIT_USAGE
    assert capsys.readouterr().out == ""


def test_a_job_tells_its_own(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    [job, *_] = api.ledger.jobs.page(limit=1)
    assert "GPU time   2.0 s, 0.5 s of it loads" in said(capsys, "status", job.id)


def test_the_book_of_acts(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        api.ledger.tenants.create(f"tenant-{number}")
    lines = said(capsys, "audit", "--act", "tenant.create", "--limit", "2").splitlines()
    assert [line.split("\t")[1:3] for line in lines] == [
        ["tenant.create", "tenant-2"],
        ["tenant.create", "tenant-1"],
    ]
    [entry] = json.loads(said(capsys, "audit", "--subject", "tenant-0", "--since", "1h", "--json"))
    assert (entry["act"], entry["details"]) == ("tenant.create", {"weight": 1.0})
    assert run(["audit", "--act", "dance"]) == EXIT_USAGE
