"""Rollouts over HTTP, for operators, and by the command that uses nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cli.commands.scaling.rollout_commands
from cli.main import run
from tests.integration.api_fixtures import Api, running_api, settings_for

KEY = "operator-key"
PATH = "/api/v2/rollouts"


@pytest.fixture(params=["sqlite", "postgres"])
def api(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Api]:
    """Two hosts with an io worker each, and a key."""
    fields: dict[str, Any] = {"api_keys": (KEY,)}
    if request.param == "postgres":
        fields["database_url"] = request.getfixturevalue("postgres_url")
    with running_api(settings_for(tmp_path, **fields)) as running:
        running.session.headers["Authorization"] = f"Bearer {KEY}"
        for host in ("a", "b"):
            running.ledger.processes.note(f"io-{host}", role="io", host=host, program="1.0", can_upgrade=False)
        yield running


def comfyline(api: Api, *words: str) -> int:
    return run(["-l", api.url, "-k", KEY, "rollout", *words])


def test_one_is_begun_looked_at_aborted_and_taken_up_again(api: Api) -> None:
    begun = api.session.post(f"{api.url}{PATH}", json={"kind": "restart", "hosts": ["b"], "timeout_s": 60})
    assert begun.status_code == 201, begun.text
    found = begun.json()
    assert (found["state"], found["timeout_s"], found["at_once"]) == ("running", 60, 1)
    assert [host["host"] for host in found["hosts"]] == ["b"]
    second = api.session.post(f"{api.url}{PATH}", json={"kind": "restart"})
    assert (second.status_code, second.json()["error"]["code"]) == (409, "already_exists")
    one = f"{api.url}{PATH}/{found['id']}"
    assert api.session.get(one).json() == found
    assert api.session.get(f"{api.url}{PATH}").json() == {"rollouts": [found]}
    assert api.session.post(f"{one}/abort").json()["state"] == "aborted"
    assert api.session.post(f"{one}/resume").json()["state"] == "running"
    acts = api.session.get(f"{api.url}/api/v2/audit?subject={found['id']}").json()["acts"]
    assert [act["act"] for act in acts] == ["rollout.resume", "rollout.abort", "rollout.begin"]


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "restart", "version": "2.0"},
        {"kind": "upgrade"},
        {"kind": "upgrade", "version": "2.0; rm -rf /"},
        {"kind": "upgrade", "version": "--index-url=http://x"},
        {"kind": "restart", "hosts": ["z"]},
        {"kind": "restart", "at_once": 0},
        {"kind": "restart", "command": "anything"},
        {"kind": "other"},
    ],
)
def test_what_makes_no_sense_is_refused(api: Api, body: dict[str, Any]) -> None:
    assert api.session.post(f"{api.url}{PATH}", json=body).status_code == 422
    assert api.ledger.rollouts.newest() == []


def test_it_takes_an_operators_key(api: Api) -> None:
    del api.session.headers["Authorization"]
    assert api.session.post(f"{api.url}{PATH}", json={"kind": "restart"}).status_code == 401
    assert api.session.get(f"{api.url}{PATH}").status_code == 401


def test_one_that_is_unknown_is_said_so(api: Api) -> None:
    for path in ("none", "00000000-0000-4000-8000-000000000000"):
        assert api.session.get(f"{api.url}{PATH}/{path}").status_code == 404


def test_the_command_looks_on_until_it_stops(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.commands.scaling.rollout_commands, "POLL_S", 0.05)
    assert comfyline(api, "status") == 2
    assert "no rollout" in capsys.readouterr().err
    assert comfyline(api, "restart", "--host", "a", "--timeout", "5", "--no-wait") == 0
    rollout_id = capsys.readouterr().out.strip()
    api.ledger.rollouts.abort(rollout_id, by=None)

    assert comfyline(api, "status", "--wait") == 1
    said = capsys.readouterr()
    assert "restart" in said.out
    assert "aborted" in said.out
    assert comfyline(api, "resume", rollout_id, "--no-wait") == 0
    assert comfyline(api, "status", "--json", rollout_id) == 0
    lines = capsys.readouterr().out.partition("{")
    assert json.loads("{" + lines[2])["state"] == "running"
    assert comfyline(api, "restart") == 2
    assert comfyline(api, "abort") == 0
    assert api.ledger.rollouts.get(rollout_id).state == "aborted"
