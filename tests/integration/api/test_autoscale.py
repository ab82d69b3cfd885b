"""What pools want over HTTP, and hosts that are given back: by the API, and by the commands that use nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import update

import cli.commands.scaling.scaling_commands
import core.ledger.scheduling.scaling_reader
from cli.main import run
from core.ledger.database.tables import instances
from core.ledger.instances import DRAINED, DRAINING, HEALTHY
from core.records.requirements import Requirements
from tests.integration.api_fixtures import Api, postgres_database, running_api, settings_for
from tests.ledger_moves import submit
from tests.unit.catalogue_literals import CATALOGUE

KEY = "operator-key"
POOLS = (("-", 0, 4), ("big", 1, 2))
NAMES = ("gpu0@a", "gpu1@a", "gpu0@b")


@pytest.fixture(params=["sqlite", "postgres"])
def api(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """Three GPUs on two hosts, a key, and a reconciler that has watched for longer than the idle window."""
    monkeypatch.setattr(core.ledger.scheduling.scaling_reader, "SETTLED_MS", 0)
    fields: dict[str, Any] = {"api_keys": (KEY,), "autoscale_pools": POOLS, "autoscale_idle_s": 10.0}
    if request.param == "postgres":
        fields["database_url"] = request.getfixturevalue("database_url")
    with running_api(settings_for(tmp_path, **fields)) as running:
        running.session.headers["Authorization"] = f"Bearer {KEY}"
        for name in NAMES:
            come_up(running, name)
        monkeypatch.setenv("COMFY_BASE_URL", running.url)
        monkeypatch.setenv("COMFY_API_KEY", KEY)
        monkeypatch.setattr(cli.commands.scaling.scaling_commands, "POLL_S", 0.05)
        yield running


@pytest.fixture
def database_url() -> Iterator[str]:
    with postgres_database() as url:
        yield url


def come_up(api: Api, name: str) -> None:
    api.ledger.instances.register(name=name, host=name[-1], worker=f"worker-{name}", kind="simulator", gpu="0")
    api.ledger.instances.up(
        name, worker=f"worker-{name}", url="http://10.0.0.1:8188", output_dir=None, version="0.3.64",
        device="cuda:0 SIMULATED", object_info=CATALOGUE, restarts=0,
    )  # fmt: skip


def turn(api: Api, name: str, state: str) -> None:
    api.ledger.instances.heartbeat(
        name, worker=f"worker-{name}", state=state, reason=None, is_drained=state != HEALTHY, restarts=0
    )


def watched(api: Api) -> None:
    """Have it known that nothing more was needed for a whole window."""
    scaling = api.ledger.scaling
    scaling.remember(api.ledger.outlook.read())
    text = json.loads(api.ledger.facts.get("scaling") or "")
    for pool in text.values():
        pool["since_s"] -= 60.0
    api.ledger.facts.mark("scaling", json.dumps(text))


def scale_in(api: Api, pool: str = "-", query: str = "") -> dict[str, Any]:
    answer = api.post(f"/api/v2/autoscale/{pool}/scale-in{query}")
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_pools_are_told_with_what_they_want_and_why(api: Api) -> None:
    for _ in range(3):
        submit(api.ledger, requires=Requirements(pool="big"), expected_time_s=100.0)

    found = api.get("/api/v2/autoscale").json()

    own, big = found["pools"]
    assert (own["pool"], own["gpus_here"], own["idle"], own["gpus_wanted"]) == ("-", 3, 3, 3)
    assert "not known yet" in own["reason"]
    assert (big["pool"], big["gpus_here"], big["gpus_wanted"], big["replicas_wanted"]) == ("big", 0, 2, 2)
    assert (big["jobs_waiting"], big["work_s"], big["jobs_beyond"]) == (3, 300.0, 1)
    assert "may have no more than 2" in big["reason"]
    assert (found["target_wait_s"], found["idle_s"], found["leaving"], found["jobs_homeless"]) == (30.0, 10.0, [], 0)
    one = api.get("/api/v2/autoscale/big").json()
    assert one["gpus_wanted"] == 2


def test_nobody_else_hears_of_it(api: Api) -> None:
    for method, path in (("GET", ""), ("GET", "/-"), ("POST", "/-/scale-in")):
        answer = requests.request(method, f"{api.url}/api/v2/autoscale{path}", timeout=5)
        assert answer.status_code == 401
    assert api.publisher.asked == []


@pytest.mark.parametrize(
    ("path", "status"), [("no-pool", 404), ("-/scale-in?hosts=x", 400), ("-/scale-in?hosts=65", 400)]
)
def test_what_is_wrong_is_said(api: Api, path: str, status: int) -> None:
    answer = api.post(f"/api/v2/autoscale/{path}") if "scale-in" in path else api.get(f"/api/v2/autoscale/{path}")
    assert answer.status_code == status
    assert ("no-pool" if status == 404 else "hosts must be") in answer.json()["error"]["message"]


def test_nothing_is_given_back_before_its_time(api: Api) -> None:
    found = scale_in(api)
    assert found["hosts"] == []
    assert api.publisher.asked == []


def test_hosts_leave_and_may_go_when_their_jobs_are_done(api: Api) -> None:
    claim = api.ledger.claims.claim("gpu0@a", named=api.submit())
    assert claim is not None
    watched(api)

    # One GPU works, two are too many; the host with the job has two.
    found = scale_in(api)
    assert [host["host"] for host in found["hosts"]] == ["b"]
    assert api.publisher.asked == [("fleet_drain", "gpu0@b")]
    assert not found["hosts"][0]["may_go"]
    turn(api, "gpu0@b", DRAINED)
    [host] = scale_in(api)["hosts"]
    assert (host["may_go"], host["gpus"]) == (True, ["gpu0@b"])
    assert api.publisher.asked == [("fleet_drain", "gpu0@b")], "it is not told again"

    api.worker.finish(claim, b"x")
    api.ledger.facts.mark("scaling", "{}")
    watched(api)
    found = scale_in(api)
    assert {each["host"]: each["may_go"] for each in found["hosts"]} == {"a": False, "b": True}
    assert found["pool"]["gpus_here"] == 0
    assert api.ledger.claims.claim("gpu1@a", named=api.submit()) is None, "it has not drained yet"
    acts = [(each["act"], each["subject"]) for each in api.get("/api/v2/audit?act=host.leave").json()["acts"]]
    assert acts == [("host.leave", "a"), ("host.leave", "b")]


def test_one_host_at_a_time(api: Api) -> None:
    watched(api)
    assert scale_in(api, query="?hosts=0")["hosts"] == []
    assert len(scale_in(api, query="?hosts=1")["hosts"]) == 1


def test_a_worker_that_cannot_be_told_is_told_the_next_time(api: Api) -> None:
    api.publisher.mute.add("worker-gpu0@b")
    watched(api)
    found = scale_in(api)
    assert api.publisher.asked == [("fleet_drain", "gpu0@a"), ("fleet_drain", "gpu1@a")]
    [host] = [each for each in found["hosts"] if each["host"] == "b"]
    assert "may still take jobs" in host["reason"]
    # It takes none all the same.
    assert api.ledger.claims.claim("gpu0@b", named=api.submit()) is None
    api.publisher.mute.clear()
    for name in NAMES[:2]:
        turn(api, name, DRAINING)
    scale_in(api)
    assert api.publisher.asked[2:] == [("fleet_drain", "gpu0@b")]


def test_whoever_dies_between_the_note_and_the_telling_loses_nothing(api: Api) -> None:
    """The API is killed right after it has noted that a host leaves: the next call goes on."""
    job = api.submit()
    api.ledger.instances.leave(["b"])
    assert api.ledger.claims.claim("gpu0@b", named=job) is None
    assert [each["host"] for each in api.get("/api/v2/autoscale").json()["leaving"]] == ["b"]
    scale_in(api)
    assert api.publisher.asked == [("fleet_drain", "gpu0@b")]
    assert api.ledger.claims.claim("gpu0@a", named=job) is not None, "the job goes elsewhere"


def test_two_at_once_give_back_the_same_hosts(api: Api) -> None:
    watched(api)
    both = [threading.Thread(target=scale_in, args=(api,), kwargs={"query": "?hosts=1"}) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    leaving = api.get("/api/v2/autoscale").json()["leaving"]
    # Each asked for one; who came second may have found the first one's gone.
    assert 1 <= len(leaving) <= 2
    wanted = api.get("/api/v2/autoscale/-").json()
    assert wanted["gpus_here"] >= wanted["gpus_wanted"]


def test_an_operator_keeps_a_host(api: Api) -> None:
    watched(api)
    scale_in(api)
    assert run(["resume", "--host", "b"]) == 0
    assert [each["host"] for each in scale_in(api, query="?hosts=0")["hosts"]] == ["a"]
    assert api.ledger.claims.claim("gpu0@b", named=api.submit()) is not None


def test_the_commands(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    watched(api)
    assert run(["autoscale"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[:3] for row in rows] == [["-", "0 (0-4)", "3"], ["big", "1 (1-2)", "0"]]
    assert run(["autoscale", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pools"][0]["pool"] == "-"

    assert run(["scale-in", "--wait", "--timeout", "0.2"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "a may not go yet." in err

    def drained() -> None:
        for name in NAMES:
            turn(api, name, DRAINED)

    timer = threading.Timer(0.3, drained)
    timer.start()
    assert run(["scale-in", "--wait", "--timeout", "20"]) == 0
    timer.join()
    assert capsys.readouterr().out.splitlines() == ["a", "b"]
    assert run(["scale-in", "big"]) == 0
    assert "No host leaves." in capsys.readouterr().err
    assert run(["scale-in", "none"]) == 2


def test_a_host_that_has_gone_is_told_of_for_a_while(api: Api) -> None:
    api.ledger.instances.leave(["b"])
    with api.ledger.database.write() as transaction:
        transaction.connection.execute(
            update(instances)
            .where(instances.c.name == "gpu0@b")
            .values(heartbeat_at_ms=instances.c.heartbeat_at_ms - 60_000)
        )
    [host] = api.get("/api/v2/autoscale").json()["leaving"]
    assert host["may_go"]
    with api.ledger.database.write() as transaction:
        transaction.connection.execute(update(instances).where(instances.c.name == "gpu0@b").values(heartbeat_at_ms=1))
    api.ledger.instances.forget_silent()
    assert [each.name for each in api.ledger.instances.all()] == ["gpu0@a", "gpu1@a"]
