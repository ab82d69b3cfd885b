"""Templates as models of the official SDK's `client.models`, unmodified, and what it sends by itself."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy_sdk
import pytest
import requests
from comfy_sdk.retry import NO_RETRY
from comfy_sdk.router_exceptions import (
    AlreadyCompleted,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ProviderError,
    QueueTimeout,
    RequestNotFound,
    RouterError,
    Unauthorized,
)

from api.contracts.router import model_routes
from core.records.job_error import JobError
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.waiting import eventually

KEY, MODEL = "sdk-key", "fleet/tile"
PARAMETERS: dict[str, Any] = {
    "width": {"type": "integer", "default": 64, "minimum": 16, "maximum": 256},
    "tint": {"type": "integer", "minimum": 0, "maximum": 1000, "random": True, "target": [["1", "color"]]},
}
ERROR = JobError(code="node_execution_error", message="The tile is broken.", node_id="1")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("workflows")
    graph = json.loads(json.dumps(GRAPH))
    graph["1"]["inputs"]["width"] = "{{WIDTH}}"
    (folder / "tile.json").write_text(json.dumps(graph))
    (folder / "tile.params.json").write_text(json.dumps({"title": "A tile", "parameters": PARAMETERS}))
    settings = settings_for(tmp_path_factory.mktemp("api"), workflows_dir=folder, api_keys=(KEY,))
    with running_api(settings) as running:
        running.session.headers["Authorization"] = f"Bearer {KEY}"
        running.worker.come_up()
        yield running


@pytest.fixture
def client(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[comfy_sdk.Comfy]:
    monkeypatch.setenv("COMFY_BASE_URL", api.url)
    monkeypatch.setenv("COMFY_ROUTER_BASE_URL", api.url)
    api.worker.beat()
    with comfy_sdk.Comfy(api_key=KEY) as client:
        yield client


def test_every_template_is_listed_page_by_page(client: comfy_sdk.Comfy) -> None:
    first = client.models.list(limit=2).page()
    assert (len(first.data), first.has_more, first.limit) == (2, True, 2)
    ids = [each.id for each in client.models.list(limit=2)]
    assert MODEL in ids
    assert ids == sorted(set(ids)) == [each.id for each in client.models.list()]
    assert client.models.list(limit=5000).page().limit == 100


def test_a_models_document_has_a_tag(client: comfy_sdk.Comfy) -> None:
    found = client.models.schema(MODEL)
    assert found.document is not None
    assert set(found.document["components"]["schemas"]["Input"]["properties"]) == {"width", "tint"}
    assert f"/v2/models/{MODEL}" in found.document["paths"]
    assert found.request_id
    again = client.models.schema(MODEL, etag=found.etag)
    assert (again.unchanged, again.document, again.etag) == (True, None, found.etag)
    assert client.models.schema("fleet/text2image", etag=found.etag).unchanged is False


def test_a_run_waits_for_what_it_makes(api: Api, client: comfy_sdk.Comfy) -> None:
    worker = threading.Thread(target=api.worker.run_next, args=(b"picture",))
    worker.start()
    done = client.models.run_detailed(MODEL, {"width": 32})
    worker.join()
    assert isinstance(done.output, dict)
    [output] = done.output["outputs"]
    assert requests.get(output["url"], timeout=5).content == b"picture"
    assert done.output["parameters"]["width"] == 32
    assert (done.replayed, bool(done.request_id)) == (False, True)
    assert client.jobs.get(done.output["request_id"]).status == "succeeded"


def test_the_same_key_is_the_same_run(api: Api, client: comfy_sdk.Comfy) -> None:
    key = str(uuid.uuid4())
    worker = threading.Thread(target=api.worker.run_next, args=(b"once",))
    worker.start()
    first = client.models.run_detailed(MODEL, {"width": 48}, idempotency_key=key)
    worker.join()
    again = client.models.run_detailed(MODEL, {"width": 48}, idempotency_key=key)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.output["request_id"] == first.output["request_id"]  # type: ignore[index]
    with pytest.raises(InvalidInput) as refused:
        client.models.run(MODEL, {"width": 64}, idempotency_key=key)
    assert refused.value.http_status == 409
    assert api.ledger.jobs.count("queued") == 0


def test_who_comes_again_while_it_runs_waits_for_the_same(api: Api, client: comfy_sdk.Comfy) -> None:
    key, found = str(uuid.uuid4()), []
    callers = [
        threading.Thread(
            target=lambda: found.append(client.models.run_detailed(MODEL, {"width": 80}, idempotency_key=key))
        )
        for _ in range(3)
    ]
    for each in callers:
        each.start()
    assert eventually(lambda: api.hub.clients == 3, 10)
    assert api.ledger.jobs.count("queued") == 1
    api.worker.run_next(b"shared")
    for each in callers:
        each.join(20)
    assert len({each.output["request_id"] for each in found}) == 1  # type: ignore[index]
    assert sorted(each.replayed for each in found) == [False, True, True]


def test_a_client_that_hangs_up_collects_it_later(
    api: Api, client: comfy_sdk.Comfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, url = str(uuid.uuid4()), f"{api.url}/v2/models/{MODEL}"
    with pytest.raises(requests.Timeout):
        api.session.post(url, json={"width": 96}, headers={"Idempotency-Key": key}, timeout=0.3)
    monkeypatch.setattr(model_routes, "WAIT_S", 0.2)
    with comfy_sdk.Comfy(api_key=KEY, retry=NO_RETRY) as impatient, pytest.raises(DeadlineExceeded) as refused:
        impatient.models.run(MODEL, {"width": 96}, idempotency_key=key)
    assert refused.value.retry_after == 1
    worker = threading.Timer(0.5, api.worker.run_next, args=(b"late",))
    worker.start()
    # The SDK comes again by itself, with the same key, at the pace that it is told.
    assert client.models.run_detailed(MODEL, {"width": 96}, idempotency_key=key).replayed
    worker.join()
    assert api.ledger.jobs.count("queued") == 0


def test_a_queued_run_is_followed_to_its_end(api: Api, client: comfy_sdk.Comfy) -> None:
    handle = client.models.submit(MODEL, {"tint": 7})
    seen = handle.status()
    assert (seen.status, seen.queue_position, seen.error_type) == ("IN_QUEUE", 1, None)
    assert requests.get(seen.raw["status_url"], headers=api.session.headers, timeout=5).status_code == 200
    early = api.get(f"/v2/models/{MODEL}/requests/{handle.request_id}")
    assert (early.status_code, early.headers["Retry-After"]) == (409, "2")
    claim = api.worker.claim(handle.request_id)
    assert handle.status().status == "IN_PROGRESS"
    api.worker.finish(claim, b"queued")
    assert [each.status for each in handle.iter_events(timeout=10)] == ["COMPLETED"]
    got = client.models.handle(MODEL, handle.request_id).get()
    assert got["outputs"][0]["size_bytes"] == len(b"queued")  # type: ignore[index]
    with pytest.raises(AlreadyCompleted):
        handle.cancel()


def test_subscribe_tells_of_the_queue(api: Api, client: comfy_sdk.Comfy) -> None:
    seen: list[str] = []
    worker = threading.Timer(0.3, api.worker.run_next, args=(b"told",))
    worker.start()
    got = client.models.subscribe(MODEL, {"tint": 8}, on_queue_update=lambda each: seen.append(each.status), timeout=30)
    worker.join()
    assert got["parameters"]["tint"] == 8  # type: ignore[index]
    assert (seen[0], seen[-1]) == ("IN_QUEUE", "COMPLETED")


@pytest.mark.parametrize(
    ("end", "wanted", "status"),
    [("fail", ProviderError, 502), ("cancel", Cancelled, 409), ("expire", QueueTimeout, 504)],
)
def test_an_end_without_a_result(
    api: Api, client: comfy_sdk.Comfy, end: str, wanted: type[RouterError], status: int
) -> None:
    handle = client.models.submit(MODEL, {"tint": 9})
    if end == "fail":
        api.ledger.claims.fail(api.worker.claim(handle.request_id), ERROR)
    elif end == "cancel":
        assert handle.cancel().status == "CANCELLATION_REQUESTED"
    else:
        assert handle.request_id in api.ledger.requeue.expire_waiting(timeout_s=-1.0)
    seen = handle.status()
    assert (seen.status, seen.error_type) == ("COMPLETED", wanted.error_type)
    with pytest.raises(wanted) as told:
        handle.get()
    answer = api.get(f"/v2/models/{MODEL}/requests/{handle.request_id}")
    assert (answer.status_code, answer.headers["X-Comfy-Error-Type"]) == (status, wanted.error_type)
    if end == "fail":
        assert told.value.detail == ERROR.message


class TestBadInput:
    @pytest.mark.parametrize(
        ("body", "field"),
        [({"width": 1}, "width"), ({"width": "wide"}, "width"), ({"hight": 2}, "hight"), ({"tint": None}, "tint")],
    )
    def test_a_wrong_parameter_is_named(self, client: comfy_sdk.Comfy, body: dict[str, Any], field: str) -> None:
        for run in (client.models.run, client.models.submit):
            with pytest.raises(RouterError) as refused:
                run(MODEL, body)
            assert refused.value.http_status == 422
            raw = requests.post(
                f"{client.models.base_url}/v2/models/{MODEL}", json=body, headers={"X-API-Key": KEY}, timeout=5
            )
            assert raw.json()["detail"][0]["loc"] == ["body", field]

    def test_a_model_that_is_not_there(self, client: comfy_sdk.Comfy) -> None:
        for model in ("fleet/tiles", "acme/tile"):
            with pytest.raises(ModelNotFound, match="fleet/tile"):
                client.models.run(model, {})
        with pytest.raises(ModelNotFound):
            client.models.schema("fleet/nothing")

    def test_a_request_of_another_model_or_none(self, api: Api, client: comfy_sdk.Comfy) -> None:
        plain, of_tile = api.submit(), client.models.submit(MODEL, {}).request_id
        cases = [(MODEL, plain), ("fleet/text2image", of_tile), (MODEL, str(uuid.uuid4())), (MODEL, "no-id")]
        for model, request_id in cases:
            handle = client.models.handle(model, request_id)
            for ask in (handle.status, handle.cancel):
                with pytest.raises(RequestNotFound):
                    ask()
        assert api.ledger.jobs.get(of_tile).status == "queued"
        for job_id in (plain, of_tile):
            api.ledger.jobs.cancel(job_id)

    def test_a_wrong_key(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMFY_BASE_URL", api.url)
        monkeypatch.setenv("COMFY_ROUTER_BASE_URL", api.url)
        with comfy_sdk.Comfy(api_key="other") as client, pytest.raises(Unauthorized):
            list(client.models.list())

    @pytest.mark.parametrize(
        ("path", "more", "status"),
        [
            ("?model_provider=acme", {"json": {}}, 400),
            ("", {"data": "{", "headers": {"Content-Type": "application/json"}}, 400),
            ("", {"json": [1]}, 400),
            ("", {"json": {}, "headers": {"Idempotency-Key": "é".encode()}}, 400),
            ("", {"json": {"tint": 2**70}}, 400),
            ("", {"json": {"tint": 2**64}}, 422),
        ],
    )
    def test_what_is_refused_leaves_no_job(self, api: Api, path: str, more: dict[str, Any], status: int) -> None:
        before = api.ledger.jobs.count("queued")
        answer = api.session.post(f"{api.url}/v2/models/{MODEL}{path}", timeout=5, **more)
        assert (answer.status_code, answer.headers["X-Comfy-Error-Type"]) == (status, "invalid_input")
        assert answer.headers["X-Comfy-Request-Id"]
        assert api.ledger.jobs.count("queued") == before

    @pytest.mark.parametrize("query", ["cursor=!!", "cursor=%ff", "limit=0", "limit=x"])
    def test_a_page_that_is_none(self, api: Api, query: str) -> None:
        answer = api.get(f"/v2/models?{query}")
        assert (answer.status_code, answer.json()["error_type"]) == (400, "invalid_input")


def test_it_needs_no_folder_of_its_own(tmp_path: Path) -> None:
    with running_api(settings_for(tmp_path)) as running:
        found = running.get("/v2/models").json()
        assert {"fleet/text2image", "fleet/upscale"} <= {each["id"] for each in found["data"]}
