"""The official client, unmodified, against a running server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy_sdk
import pytest
from comfy_sdk.events import OutputReady, Progress, StatusChange

from core.messaging.notices import Notice
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.ledger_moves import secrets_of
from tests.makers import GRAPH

KEY = "sdk-key"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"), api_keys=(KEY,))) as running:
        running.worker.come_up()
        yield running


@pytest.fixture
def client(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[comfy_sdk.Comfy]:
    monkeypatch.setenv("COMFY_BASE_URL", api.url)
    with comfy_sdk.Comfy(api_key=KEY) as client:
        yield client


def workflow(client: comfy_sdk.Comfy, graph: dict[str, Any] = GRAPH) -> Any:
    return client.workflows.from_json(graph)


def test_run_and_download(api: Api, client: comfy_sdk.Comfy, tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    worker = threading.Thread(target=api.worker.run_next, args=(content,))
    worker.start()

    job = client.run(workflow(client), timeout=10)
    worker.join()

    assert job.status == "succeeded"
    (output,) = job.get_outputs("2")
    output.to_file(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == content
    assert job.get_workflow().graph == GRAPH
    assert client.jobs.get(job.id).status == "succeeded"


def test_events_with_progress_and_outputs_before_the_end(api: Api, client: comfy_sdk.Comfy) -> None:
    job = client.submit(workflow(client), api_key="partner-key", metadata={"client": "acme"})
    assert secrets_of(api.ledger, job.id) == {"api_key_comfy_org": "partner-key"}
    assert job.metadata == {"client": "acme"}
    seen: list[Any] = []

    for event in job.events():
        seen.append(event)
        if isinstance(event, StatusChange) and event.status == "queued":
            claim = api.worker.claim(job.id)
        elif isinstance(event, StatusChange) and event.status == "running":
            node = {"current_node": "3", "current_node_class": "KSampler", "step": 7, "steps": 20}
            snapshot = {"value": 0.5, "nodes_done": 1, "nodes_total": 2, **node}
            api.hub.notify(Notice(job_id=job.id, kind="progress", seq=0, data=snapshot))
        elif isinstance(event, Progress) and event.value == 0.5:
            api.worker.finish(claim, b"abc")

    statuses = [event.status for event in seen if isinstance(event, StatusChange)]
    assert statuses == ["queued", "running", "succeeded"]
    assert [event.message for event in seen if isinstance(event, Progress)] == ["KSampler 7/20"]
    assert isinstance(seen[-2], OutputReady)
    assert isinstance(seen[-1], StatusChange)


def test_cancel(api: Api, client: comfy_sdk.Comfy) -> None:
    job = client.submit(workflow(client))

    assert job.cancel().status == "canceled"
    with pytest.raises(comfy_sdk.JobFailed):
        job.result()


def test_list_follows_the_pages_and_filters(api: Api, client: comfy_sdk.Comfy) -> None:
    ids = [client.submit(workflow(client), metadata={"batch": "b 1", "n": str(n)}).id for n in range(3)]

    listed = list(client.list_jobs(metadata={"batch": "b 1"}, limit=1))

    assert sorted(summary.id for summary in listed) == sorted(ids)
    assert all(summary.create_time is not None and summary.update_time is not None for summary in listed)
    for job_id in ids:
        api.ledger.jobs.cancel(job_id)


def test_refusals_arrive_as_the_clients_own_errors(api: Api, client: comfy_sdk.Comfy) -> None:
    with pytest.raises(comfy_sdk.InvalidWorkflow):
        client.submit(workflow(client, {"1": {"class_type": "Nope", "inputs": {}}}))
    job = client.submit(workflow(client), idempotency_key="only-once")
    with pytest.raises(comfy_sdk.IdempotencyKeyReuse):
        client.submit(workflow(client), idempotency_key="only-once")
    with pytest.raises(comfy_sdk.NotFound):
        client.jobs.get("00000000-0000-0000-0000-000000000000")
    job.cancel()


def test_an_empty_fleet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_api(settings_for(tmp_path)) as api:
        monkeypatch.setenv("COMFY_BASE_URL", api.url)
        monkeypatch.setattr("core.errors.NoHealthyInstance.retry_after_s", 1)
        timer = threading.Timer(0.2, api.worker.come_up)
        timer.start()
        with comfy_sdk.Comfy() as client:
            job = client.submit(workflow(client))
        timer.join()

    assert job.status == "queued"
