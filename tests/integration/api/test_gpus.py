"""The fleet's GPUs over HTTP, and the operator's commands that use nothing else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

import cli.commands.gpus
from api.contracts.gpu_views import LINES_SHOWN
from api.service.estimates import MAX_AGE_S
from cli.main import run
from core.ledger.durations import DEFAULT_S
from core.ledger.instances import DRAINED, DRAINING, HEALTHY, UNHEALTHY
from core.ledger.scheduling.learned import USUAL_LOAD_S
from core.ledger.scheduling.outlook import Outlook, OutlookReader
from core.records.requirements import Requirements
from tests.integration.api_fixtures import Api, postgres_database, running_api, settings_for
from tests.ledger_moves import submit
from tests.unit.catalogue_literals import CATALOGUE

KEY = "operator-key"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A fleet of three GPUs on two hosts, and a strange directory to stand in, with a key and an address alone."""
    (tmp_path / "fleet").mkdir()
    (tmp_path / "strange").mkdir()
    with running_api(settings_for(tmp_path / "fleet", api_keys=(KEY,))) as running:
        running.session.headers["Authorization"] = f"Bearer {KEY}"
        for name in ("gpu0@a", "gpu1@a", "gpu0@b"):
            come_up(running, name)
        monkeypatch.chdir(tmp_path / "strange")
        monkeypatch.setenv("COMFY_BASE_URL", running.url)
        monkeypatch.setenv("COMFY_API_KEY", KEY)
        monkeypatch.setattr(cli.commands.gpus, "POLL_S", 0.05)
        yield running
        assert list((tmp_path / "strange").iterdir()) == []


def come_up(api: Api, name: str, **told: Any) -> None:
    instances = api.ledger.instances
    instances.register(name=name, host=name[-1], worker=f"worker-{name}", kind="simulator", gpu="0")
    instances.up(
        name,
        worker=f"worker-{name}",
        url="http://10.0.0.1:8188",
        output_dir="/private/output",
        version="0.3.64",
        device="cuda:0 SIMULATED",
        object_info=CATALOGUE,
        restarts=0,
        **told,
    )


def turn(api: Api, name: str, state: str) -> None:
    """The worker of a GPU says how it stands."""
    is_drained = state in (DRAINING, DRAINED)
    api.ledger.instances.heartbeat(
        name, worker=f"worker-{name}", state=state, reason=None, is_drained=is_drained, restarts=0
    )


def test_gpus_are_listed_without_what_is_the_hosts_own(api: Api) -> None:
    answer = api.get("/api/v2/gpus")
    assert [gpu["name"] for gpu in answer.json()["gpus"]] == ["gpu0@a", "gpu0@b", "gpu1@a"]
    assert answer.json()["gpus"][0]["state"] == "healthy"
    assert "10.0.0.1" not in answer.text
    assert "/private" not in answer.text
    assert [gpu["name"] for gpu in api.get("/api/v2/gpus?host=b").json()["gpus"]] == ["gpu0@b"]


def test_each_command_reaches_the_worker_it_is_meant_for(api: Api) -> None:
    for command in ("drain", "resume", "restart"):
        answer = api.post(f"/api/v2/gpus/gpu1/{command}")
        assert (answer.status_code, answer.json()["name"]) == (202, "gpu1@a")
    assert api.publisher.asked == [(f"fleet_{word}", "gpu1@a") for word in ("drain", "resume", "restart")]


@pytest.mark.parametrize(
    ("name", "status", "code", "words"),
    [
        ("gpu7", 404, "not_found", "It has: gpu0@a, gpu0@b, gpu1@a"),
        ("gpu0", 422, "invalid_request", "name one of gpu0@a, gpu0@b"),
        ("gpu0@a", 503, "instance_unreachable", "does not answer"),
        ("%00%ff", 404, "not_found", "There is no"),
    ],
)
def test_what_cannot_be_done_is_said(api: Api, name: str, status: int, code: str, words: str) -> None:
    api.publisher.mute.add("worker-gpu0@a")
    answer = api.post(f"/api/v2/gpus/{name}/drain")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert words in answer.json()["error"]["message"]
    assert api.publisher.asked == []


def test_nobody_commands_without_a_key(api: Api) -> None:
    for method, path in (("GET", "/api/v2/gpus"), ("POST", "/api/v2/gpus/gpu1/drain")):
        assert requests.request(method, api.url + path, timeout=5).status_code == 401
    assert api.publisher.asked == []


def test_gpus_from_anywhere(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpus"]) == 0
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()] == [
        [name, "healthy", "SIMULATED"] for name in ("gpu0@a", "gpu0@b", "gpu1@a")
    ]
    assert run(["gpus", "--host", "b", "--json"]) == 0
    assert [gpu["name"] for gpu in json.loads(capsys.readouterr().out)] == ["gpu0@b"]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["gpu1", "gpu0@b"], ["gpu1@a", "gpu0@b"]),
        (["--host", "a"], ["gpu0@a", "gpu1@a"]),
        (["--all"], ["gpu0@a", "gpu0@b", "gpu1@a"]),
    ],
)
@pytest.mark.parametrize("command", ["drain", "resume", "restart"])
def test_several_gpus_at_once(api: Api, command: str, arguments: list[str], asked: list[str]) -> None:
    assert run([command, *arguments]) == 0
    assert api.publisher.asked == [(f"fleet_{command}", name) for name in asked]


def test_one_wrong_name_and_none_is_told(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drain", "gpu1", "gpu7"]) == 2
    assert run(["drain"]) == 2
    assert run(["drain", "--all", "--host", "a"]) == 2
    assert api.publisher.asked == []
    assert "There is no gpu7" in capsys.readouterr().err


def test_a_worker_that_does_not_answer_keeps_nobody_from_the_others(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.publisher.mute.add("worker-gpu0@a")
    assert run(["drain", "--all"]) == 4
    assert api.publisher.asked == [("fleet_drain", "gpu0@b"), ("fleet_drain", "gpu1@a")]
    out, err = capsys.readouterr()
    assert "gpu0@a does not answer" in err
    assert "gpu0@a" not in out


def test_no_server_is_said(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COMFY_BASE_URL", "http://127.0.0.1:9")
    for command in (["gpus"], ["drain", "gpu0@a"], ["restart", "--all"]):
        assert run(command) == 4
    monkeypatch.setenv("COMFY_BASE_URL", api.url)
    monkeypatch.setenv("COMFY_API_KEY", "wrong")
    assert run(["gpus"]) == 2
    assert "COMFY_API_KEY" in capsys.readouterr().err


def _later(api: Api, *steps: tuple[str, str]) -> threading.Timer:
    def take() -> None:
        for name, state in steps:
            if state == "new":
                come_up(api, name)
            else:
                turn(api, name, state)
            time.sleep(0.2)

    timer = threading.Timer(0.2, take)
    timer.start()
    return timer


def test_a_drain_is_waited_for(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    claim = api.ledger.claims.claim("gpu1@a", named=api.submit())
    assert claim is not None
    turn(api, "gpu1@a", DRAINING)
    assert run(["drain", "gpu1", "--wait", "--timeout", "0.3"]) == 1
    assert "gpu1@a is draining" in capsys.readouterr().err
    api.worker.finish(claim, b"x")
    timer = _later(api, ("gpu0@b", DRAINED))
    assert run(["drain", "gpu1", "gpu0@b", "--wait", "--timeout", "20"]) == 0
    timer.join()


def test_a_restart_is_waited_for_until_another_process_answers(api: Api) -> None:
    # Healthy still, and healthy again, are two things.
    assert run(["restart", "gpu1", "--wait", "--timeout", "0.3"]) == 1
    timer = _later(api, ("gpu1@a", UNHEALTHY), ("gpu1@a", "new"))
    assert run(["restart", "gpu1", "--wait", "--timeout", "20"]) == 0
    timer.join()


def test_a_resume_is_waited_for(api: Api) -> None:
    turn(api, "gpu1@a", DRAINED)
    assert run(["resume", "gpu1", "--wait", "--timeout", "0.3"]) == 1
    timer = _later(api, ("gpu1@a", HEALTHY))
    assert run(["resume", "gpu1", "--wait", "--timeout", "20"]) == 0
    timer.join()


class TestWhatEachOneTakes:
    """The listing beside the policy, on each kind of database."""

    @pytest.fixture(params=["sqlite", "postgresql"])
    def fleet(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Api]:
        """Two GPUs: one that holds `a.sft`, and runs a job with it; one that is idle and holds nothing."""
        with ExitStack() as stack:
            url = stack.enter_context(postgres_database()) if request.param == "postgresql" else ""
            api = stack.enter_context(running_api(settings_for(tmp_path, database_url=url)))
            come_up(api, "gpu0@a", model_sizes={"a.sft": 6_900_000_000}, vram_bytes=24_000_000_000, pool="fast")
            assert api.ledger.claims.claim("gpu0@a", named=submit(api.ledger, models=("a.sft",)).id)
            come_up(api, "gpu1@a")
            yield api

    def test_what_it_is_and_holds(self, fleet: Api) -> None:
        busy, idle = gpus_of(fleet)
        assert (busy["pool"], busy["gpu_kind"], busy["vram_bytes"]) == ("fast", "cuda:0 SIMULATED", 24_000_000_000)
        assert busy["models"] == [{"name": "a.sft", "size_bytes": 6_900_000_000}]
        assert (busy["loads_today"], busy["loading_s_today"]) == (1, USUAL_LOAD_S)
        assert 0 < busy["free_in_s"] <= USUAL_LOAD_S + DEFAULT_S
        assert (idle["pool"], idle["vram_bytes"], idle["models"]) == (None, None, [])
        assert (idle["loads_today"], idle["loading_s_today"], idle["free_in_s"]) == (0, 0.0, 0.0)

    def test_without_jobs_there_is_nothing_to_take(self, fleet: Api) -> None:
        for gpu in gpus_of(fleet):
            assert (gpu["lines"], gpu["lines_count"]) == ([], 0)
            assert gpu["next"]["job_id"] is gpu["next"]["models"] is gpu["next"]["in_s"] is None
            assert (gpu["next"]["why"], gpu["next"]["reason"]) == ("nothing_waits", "No job waits.")

    def test_what_it_takes_and_why(self, fleet: Api) -> None:
        warm, cold = submit(fleet.ledger, models=("a.sft",)), submit(fleet.ledger, models=("b.sft", "c.sft"))
        busy, idle = gpus_of(fleet)
        assert busy["next"]["job_id"] == warm.id
        assert (busy["next"]["models"], busy["next"]["why"]) == (["a.sft"], "warm")
        assert busy["next"]["reason"] == "It holds a.sft."
        assert busy["next"]["in_s"] == pytest.approx(busy["free_in_s"], abs=0.1)
        assert (idle["next"]["job_id"], idle["next"]["in_s"]) == (cold.id, 0.0)
        assert (idle["next"]["models"], idle["next"]["why"]) == (["b.sft", "c.sft"], "unheld")
        assert idle["next"]["load_s"] == USUAL_LOAD_S

    def test_it_takes_what_it_is_said_to_take(self, fleet: Api) -> None:
        submit(fleet.ledger, models=("a.sft",))
        submit(fleet.ledger, models=("b.sft",))
        told = gpus_of(fleet)[1]["next"]["job_id"]
        claim = fleet.ledger.claims.claim("gpu1@a")
        assert claim is not None
        assert claim.job_id == told

    def test_the_lines_it_could_run(self, fleet: Api) -> None:
        for _ in range(3):
            submit(fleet.ledger, models=("a.sft",))
        submit(fleet.ledger, models=("b.sft",), priority=5)
        submit(fleet.ledger, requires=Requirements(pool="fast"))
        busy, idle = gpus_of(fleet)
        assert [(each["priority"], each["models"], each["waiting"], each["is_held"]) for each in busy["lines"]] == [
            (5, ["b.sft"], 1, False),
            (0, ["a.sft"], 3, True),
            (0, [], 1, True),
        ]
        assert all(0 <= each["oldest_waits_s"] < 60 for each in busy["lines"])
        assert [(each["models"], each["is_held"]) for each in idle["lines"]] == [(["b.sft"], False), (["a.sft"], False)]
        assert (busy["lines_count"], idle["lines_count"]) == (3, 2)

    def test_no_more_lines_than_one_can_read(self, fleet: Api) -> None:
        for number in range(LINES_SHOWN + 2):
            submit(fleet.ledger, priority=number)
        gpu = gpus_of(fleet)[0]
        assert [each["priority"] for each in gpu["lines"]] == [number + 2 for number in reversed(range(LINES_SHOWN))]
        assert gpu["lines_count"] == LINES_SHOWN + 2

    def test_one_that_is_drained_takes_nothing(self, fleet: Api) -> None:
        submit(fleet.ledger)
        assert gpus_of(fleet)[1]["next"]["why"] == "no_models"
        turn(fleet, "gpu1@a", DRAINED)
        gpu = gpus_of(fleet, is_new=False)[1]
        assert (gpu["next"]["why"], gpu["free_in_s"], gpu["lines"]) == ("takes_none", None, [])
        turn(fleet, "gpu1@a", HEALTHY)
        assert gpus_of(fleet)[1]["next"]["why"] == "no_models"

    def test_one_that_came_this_moment_is_known(self, fleet: Api) -> None:
        submit(fleet.ledger, requires=Requirements(pool="new"))
        assert len(gpus_of(fleet)) == 2
        come_up(fleet, "gpu2@a", pool="new")
        assert gpus_of(fleet, is_new=False)[2]["next"]["why"] == "no_models"

    def test_a_table_for_people(
        self, fleet: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        job = submit(fleet.ledger, models=("b.sft",))
        monkeypatch.setenv("COMFY_BASE_URL", fleet.url)
        time.sleep(MAX_AGE_S)
        assert run(["gpus"]) == 0
        busy, idle = capsys.readouterr().out.splitlines()
        assert "  fast  SIMULATED 24 GB  " in busy
        assert "  a.sft 6.9 GB  1, 10 s  " in busy
        assert idle.endswith(f"Takes job {job.id} now: No GPU holds b.sft; loading takes about 10 s.")


def gpus_of(api: Api, *, is_new: bool = True) -> list[dict[str, Any]]:
    """The listing, from a look that is not older than what was done before."""
    if is_new:
        time.sleep(MAX_AGE_S)
    answer = api.get("/api/v2/gpus")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["gpus"]
    return found


def test_who_asks_often_has_the_fleet_looked_at_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Outlook] = []
    read = OutlookReader.read

    def count(reader: OutlookReader) -> Outlook:
        looks.append(read(reader))
        return looks[-1]

    monkeypatch.setattr(OutlookReader, "read", count)
    with running_api(settings_for(tmp_path)) as api:
        come_up(api, "gpu0@a")
        began_s = time.monotonic()
        for _ in range(20):
            gpus_of(api, is_new=False)
        assert 1 <= len(looks) <= 1 + (time.monotonic() - began_s) / MAX_AGE_S
