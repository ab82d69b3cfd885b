"""The stream of all jobs' news: who hears of what, and what becomes of too much."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from api.contracts.comfy_v2 import feed_route
from api.service import feed
from core.messaging.notices import Notice
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.waiting import PATIENCE, until

OPERATORS_KEY = "operators-own-key"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    # A client that hangs up in mid read waits for the next line.
    monkeypatch.setattr(feed_route, "KEEPALIVE_S", 0.3)
    with running_api(settings_for(tmp_path, api_keys=[OPERATORS_KEY])) as running:
        running.worker.come_up()
        yield running


class Heard:
    """What one client has read of the stream."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def jobs(self, job_id: str) -> list[str]:
        """The statuses that were told of a job, in order."""
        return [data["status"] for name, data in list(self.events) if name == "job" and data["id"] == job_id]

    def count(self, name: str) -> int:
        return sum(each == name for each, _ in list(self.events))


@contextmanager
def listening(api: Api, key: str) -> Iterator[Heard]:
    heard, opened = Heard(), threading.Event()
    answer = requests.get(
        f"{api.url}/api/v2/events",
        headers={"Authorization": f"Bearer {key}"},
        stream=True,
        timeout=30 * PATIENCE,
    )
    assert answer.status_code == 200, answer.text

    def read() -> None:
        name = ""
        try:
            for line in answer.iter_lines(decode_unicode=True, chunk_size=1):
                opened.set()
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    heard.events.append((name, json.loads(line[6:])))
        except (requests.RequestException, AttributeError, ValueError):
            pass

    threading.Thread(target=read, daemon=True).start()
    assert opened.wait(20 * PATIENCE)
    try:
        yield heard
    finally:
        answer.close()


def submitted(api: Api, key: str) -> str:
    api.worker.beat()
    headers = {"Authorization": f"Bearer {key}"}
    answer = requests.post(f"{api.url}/api/v2/jobs", json={"workflow": GRAPH}, headers=headers, timeout=20)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def key_of(api: Api, tenant: str, *scopes: Any) -> str:
    if tenant not in [each.name for each in api.ledger.tenants.all()]:
        api.ledger.tenants.create(tenant)
    return api.ledger.keys.create(tenant, name="page", scopes=scopes or ("submit", "read"))[1]


def test_a_tenant_hears_of_its_own_jobs_and_an_operator_of_all(api: Api) -> None:
    ours, theirs = key_of(api, "acme"), key_of(api, "other")
    with listening(api, ours) as we, listening(api, theirs) as they, listening(api, OPERATORS_KEY) as operator:
        job_id = submitted(api, ours)
        until(lambda: we.jobs(job_id) and operator.jobs(job_id), what="that a new job is told")
        claim = api.worker.claim(job_id)
        until(lambda: "running" in we.jobs(job_id), what="that it runs")
        api.hub.notify(Notice(job_id=job_id, kind="progress", data=_snapshot()))
        until(lambda: we.count("progress") > 0 and operator.count("progress") > 0, what="how far it is")
        last = submitted(api, theirs)
        until(lambda: they.jobs(last), what="that they hear of theirs")

        assert claim.job_id == job_id
        assert not they.jobs(job_id)
        assert they.count("progress") == 0
        assert not we.jobs(last)
        told = [data for name, data in we.events if name == "job"]
        assert all("tenant" not in data for data in told)


def test_the_end_of_a_job_comes_with_its_outputs(api: Api) -> None:
    with listening(api, OPERATORS_KEY) as heard:
        job_id = submitted(api, OPERATORS_KEY)
        api.worker.run(job_id, b"x")
        until(lambda: "succeeded" in heard.jobs(job_id), what="its end")
    last = [data for name, data in heard.events if name == "job" and data["id"] == job_id][-1]
    assert len(last["outputs"]) == 1


def test_a_job_of_another_process_is_found_without_a_notice(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "NEWEST_S", 0.2)
    with listening(api, OPERATORS_KEY) as heard:
        # As another process would: nothing of it comes by this one's hub.
        monkeypatch.setattr(api.hub, "_listeners", [])
        job_id = submitted(api, OPERATORS_KEY)
        until(lambda: heard.jobs(job_id), what="that it is found")


def test_more_than_can_be_told_is_told_as_such(api: Api) -> None:
    with listening(api, OPERATORS_KEY) as heard:
        for number in range(feed.MAX_NEWS + 10):
            api.hub.notify(Notice(job_id=f"{number:08}", kind="status", seq=1, status="running"))
        until(lambda: heard.count("missed") > 0, what="that something was missed")
        job_id = submitted(api, OPERATORS_KEY)
        until(lambda: heard.jobs(job_id), what="that it goes on")


def test_it_needs_a_key_that_may_read(api: Api) -> None:
    assert requests.get(f"{api.url}/api/v2/events", timeout=20).status_code == 401
    no_reader = key_of(api, "acme", "submit")
    headers = {"X-API-Key": no_reader}
    assert requests.get(f"{api.url}/api/v2/events", headers=headers, timeout=20).status_code == 403


def _snapshot() -> dict[str, Any]:
    return {"value": 0.5, "nodes_done": 1, "nodes_total": 2}
