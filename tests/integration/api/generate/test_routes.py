"""The `/generate` contract over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import select

from api.service.waiting import CLIENT_CHECK_S
from core.ledger.database.tables import jobs
from core.records.job import Job
from core.records.job_error import JobError
from core.records.webhook_target import WebhookTarget
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.ledger_moves import secrets_of
from tests.makers import GRAPH
from tests.waiting import PATIENCE, until

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as running:
        yield running


@pytest.fixture(autouse=True)
def healthy_and_empty(api: Api) -> Iterator[None]:
    # Its heartbeat: on a busy machine the module takes longer than an instance may be silent.
    api.worker.come_up()
    yield
    for job in api.ledger.jobs.page(statuses=["queued"], limit=1000):
        api.ledger.jobs.cancel(job.id)


def body(**fields: Any) -> dict[str, Any]:
    return {"input": {"workflow_json": GRAPH, **fields}}


def newest(api: Api) -> Job:
    return api.ledger.jobs.page(limit=1)[0]


def test_sync_waits_and_answers_with_the_result(api: Api) -> None:
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(api.post, "/generate/sync", {**body(request_id="my-id"), "expected_time": 30.0})
        api.worker.run_next(b"pixels")
        answer = answering.result()

    assert answer.status_code == 200
    result = answer.json()
    contract = {"id", "status", "message", "output", "timings", "comfyui_response"}
    assert set(result) == contract | {"attempt", "instance", "gpu", "losses", "gpu_time"}
    assert (result["id"], result["status"]) == ("my-id", "completed")
    output = result["output"][0]
    assert output["data"] is None
    assert api.session.get(output["url"], timeout=5).content == b"pixels"
    assert set(result["timings"]) >= {"queued_at_ms", "preprocess_ms", "generation_ms", "postprocess_ms", "total_ms"}
    assert api.get("/result/my-id").json()["output"][0]["filename"] == output["filename"]


def test_outputs_inline(api: Api) -> None:
    with ThreadPoolExecutor() as pool:
        by_field = pool.submit(api.post, "/generate/sync", body(return_outputs_as_base64=True))
        api.worker.run_next(b"pixels")
        assert base64.b64decode(by_field.result().json()["output"][0]["data"]) == b"pixels"
        by_header = pool.submit(api.post, "/generate/sync", body(), headers={"X-Return-Outputs-As-Base64": "1"})
        api.worker.run_next(b"more")
        assert base64.b64decode(by_header.result().json()["output"][0]["data"]) == b"more"


@pytest.mark.parametrize(("code", "status"), [("node_execution_error", 500), ("poison", 502), ("stuck", 502)])
def test_sync_of_a_job_that_fails(api: Api, code: str, status: int) -> None:
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(api.post, "/generate/sync", body())
        _fail_next(api, code)
        answer = answering.result()

    assert (answer.status_code, answer.json()["status"]) == (status, "failed")
    assert "it broke" in answer.json()["message"]


def _fail_next(api: Api, code: str) -> None:
    deadline = time.monotonic() + 5 * PATIENCE
    while time.monotonic() < deadline:
        claim = api.ledger.claims.claim("gpu0@test")
        if claim is not None:
            assert api.ledger.claims.fail(claim, JobError(code=code, message="it broke"))
            return
        time.sleep(0.02)
    raise AssertionError("no job was queued")


def test_sync_of_a_job_that_is_cancelled(api: Api) -> None:
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(api.post, "/generate/sync", body(request_id="to-cancel"))
        while api.get("/result/to-cancel").status_code == 404:
            time.sleep(0.02)
        cancelled = api.session.post(f"{api.url}/cancel/to-cancel", timeout=5)
        answer = answering.result()

    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert (answer.status_code, answer.json()["status"]) == (499, "cancelled")


def test_generate_answers_at_once(api: Api) -> None:
    answer = api.post("/generate", {"auth_data": {"signature": "s"}, "payload": body(request_id="at-once")})

    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert api.get("/result/at-once").json()["status"] == "pending"
    assert api.get("/queue-info").json()["preprocess_queue_size"] == 1
    job = newest(api)
    assert (job.contract, job.request_id, job.expected_time_s) == ("generate", "at-once", 46.0)
    api.worker.run(job.id, b"x")
    assert api.get("/result/at-once").json()["status"] == "completed"


def test_random_integers_are_drawn_in_a_graph_of_the_clients_own(api: Api) -> None:
    size = {"width": 64, "height": 64, "batch_size": 1}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {**size, "color": 0}, "_meta": {"title": "__RANDOM_INT__"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a-__RANDOM_INT__-b"}},
    }
    answer = api.post("/generate", {"input": {"workflow_json": graph}})
    assert answer.status_code == 202, answer.text
    sent = api.get(f"/api/v2/jobs/{answer.json()['id']}/workflow").json()["workflow"]
    assert isinstance(sent["1"]["_meta"]["title"], int)
    assert re.fullmatch(r"a-[0-9]+-b", sent["2"]["inputs"]["filename_prefix"])


def test_unknown_requests(api: Api) -> None:
    for answer in (api.get("/result/nope"), api.post("/cancel/nope"), api.get("/result/%00")):
        assert answer.status_code == 404
        assert answer.json() == {"status": "failed", "message": "Request ID not found"}


def test_a_request_id_belongs_to_one_body(api: Api) -> None:
    assert api.post("/generate", body(request_id="taken")).status_code == 202
    job_id = newest(api).id
    for path in ("/generate", "/generate/sync", "/generate/stream"):
        again = api.post(path, body(request_id="taken", strip_metadata=True))
        assert again.status_code == 409
        assert "taken" in again.json()["detail"]
        error = again.json()["error"]
        assert (error["code"], error["details"]) == ("request_id_reuse", {"job_id": job_id})
    stolen = api.post("/generate", body(request_id=job_id))
    assert stolen.status_code == 409, "nobody may call a job by the id of another one"


def test_the_same_request_again_has_the_job_there_is(api: Api) -> None:
    def asked(path: str, **envelope: Any) -> Any:
        # Other spaces, and the keys in another order; a router signs each of its tries anew.
        request = {"expected_time": 3, "input": {"request_id": "twice", "workflow_json": GRAPH}}
        text = json.dumps({**envelope, "payload": request} if envelope else request, indent=1)
        return api.session.post(f"{api.url}{path}", data=text, headers=JSON, timeout=20)

    before = len(api.ledger.jobs.page(limit=1000))
    first = api.post("/generate", {"input": {"workflow_json": GRAPH, "request_id": "twice"}, "expected_time": 3})
    job = newest(api)
    assert (asked("/generate").status_code, asked("/generate", auth_data={"reqnum": 2}).status_code) == (202, 202)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(asked, "/generate/sync", auth_data={"reqnum": 3})
        api.worker.run(job.id, b"picture")
        synced = waiting.result()
    late = asked("/generate")
    streamed = asked("/generate/stream").text

    assert first.json()["id"] == "twice"
    assert (synced.status_code, synced.json()["status"]) == (200, "completed")
    assert (late.status_code, late.json()["output"]) == (202, synced.json()["output"])
    assert json.loads(streamed.removeprefix("data: "))["result"] == synced.json()
    assert len(api.ledger.jobs.page(limit=1000)) == before + 1
    assert api.publisher.turns.count(job.id) == 1


def test_the_same_request_ten_times_at_once_is_one_job(api: Api) -> None:
    before = len(api.ledger.jobs.page(limit=1000))

    def ask(_number: int) -> int:
        return requests.post(f"{api.url}/generate", json=body(request_id="ten-times"), timeout=20).status_code

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(ask, range(10))) == [202] * 10

    assert len(api.ledger.jobs.page(limit=1000)) == before + 1
    assert api.publisher.turns.count(newest(api).id) == 1


def test_a_caller_that_hangs_up_takes_nothing_from_one_who_asked_the_same(api: Api) -> None:
    with closing(hung(api, body(request_id="shared"))) as first:
        job = newest(api)
        with ThreadPoolExecutor() as pool:
            second = pool.submit(api.post, "/generate/sync", body(request_id="shared"))
            until(lambda: api.hub.waiting == 1 and callers(api, job.id) == 2, what="the second caller")
            first.close()
            until(lambda: callers(api, job.id) == 1, what="the hang-up to be noticed")
            api.worker.run(job.id, b"picture")
            answer = second.result()

    assert (answer.status_code, answer.json()["status"]) == (200, "completed")


def test_who_lost_the_answer_and_asks_again_gets_one(api: Api) -> None:
    """Nobody was left, so the job was cancelled; the next with the same body is wanted."""
    with closing(hung(api, body(request_id="lost"))) as first:
        lost = newest(api)
        first.close()
    until(lambda: api.ledger.jobs.get(lost.id).status == "canceled", what="the cancellation")
    with ThreadPoolExecutor() as pool:
        again = pool.submit(api.post, "/generate/sync", body(request_id="lost"))
        api.worker.run_next(b"picture")
        answer = again.result()

    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, "lost", "completed")
    assert api.ledger.jobs.get(lost.id).status == "canceled"
    assert api.get("/result/lost").json()["status"] == "completed"


def test_a_request_that_was_cancelled_on_purpose_stays_so(api: Api) -> None:
    assert api.post("/generate", body(request_id="unwanted")).status_code == 202
    assert api.post("/cancel/unwanted").status_code == 200

    again = api.post("/generate/sync", body(request_id="unwanted"))

    assert (again.status_code, again.json()["status"]) == (499, "cancelled")


def test_what_a_job_keeps_of_a_body_tells_nobody_its_secrets(api: Api) -> None:
    wanted = body(request_id="sealed", webhook={"url": "https://example.com/", "secret": "guess-me"})
    assert api.post("/generate", wanted).status_code == 202
    text = json.dumps(wanted, sort_keys=True, separators=(",", ":")).encode()

    with api.ledger.database.read() as connection:
        mark = connection.execute(select(jobs.c.request_mark).where(jobs.c.own_request_id == "sealed")).scalar_one()

    assert hashlib.sha256(text).hexdigest() not in mark, "who has the ledger must not be able to try secrets"
    assert api.post("/generate", wanted).status_code == 202
    wanted["input"]["webhook"]["secret"] = "another"
    assert api.post("/generate", wanted).status_code == 409


def hung(api: Api, wanted: dict[str, Any]) -> socket.socket:
    """The connection of a client that waits for `/generate/sync`, when its job is there."""
    payload = json.dumps(wanted).encode()
    host, port = api.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    head = f"POST /generate/sync HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
    until(lambda: api.get(f"/result/{wanted['input']['request_id']}").status_code == 200, what="the job")
    return client


def callers(api: Api, job_id: str) -> int:
    with api.ledger.database.read() as connection:
        return int(connection.execute(select(jobs.c.callers).where(jobs.c.id == job_id)).scalar_one())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"modifier": "X"}, "Cannot provide both workflow_json and modifier - they are mutually exclusive"),
        ({"workflow_json": None}, "Must provide either workflow_json OR modifier"),
        ({"workflow_json": {}, "modifier": ""}, "Must provide either workflow_json OR modifier"),
        ({"modifications": {"a": 1}}, "modifications can only be provided when modifier is specified"),
        ({"workflow_json": {}, "modifier": "Paint"}, "there are: Text2Image, Image2Image, RawWorkflow"),
        ({"workflow_json": {}, "modifier": "Text2Image"}, "Parameter prompt is missing."),
        ({"workflow_json": {}, "modifier": "Text2Image", "modifications": []}, "modifications must be an object"),
        (
            {"workflow_json": {}, "modifier": "Text2Image", "modifications": {"prompt": "a", "stepz": 3}},
            "Unknown parameter 'stepz'",
        ),
        ({"s3": {"bucket_name": "b"}}, "s3.access_key_id is missing"),
        ({"s3": {"connect_attempts": 0}}, "s3.connect_attempts must be an integer from 1 to 10, not 0."),
        ({"s3": "https://b"}, "s3 must be an object"),
        ({"convert_output": {"format": "gif"}}, "convert_output.format must be one of webp, jpeg, png, not 'gif'."),
        ({"convert_output": {"format": "webp", "quality": 101}}, "quality must be an integer from 1 to 100, not 101."),
        ({"convert_output": {"format": "png", "quality": 80}}, "quality is for webp and jpeg"),
        ({"convert_output": {"format": "jpeg", "lossless": True}}, "lossless is for webp"),
        ({"convert_output": {"format": "webp", "qualty": 80}}, "Unknown field 'input.convert_output.qualty'"),
        ({"convert_output": {}}, "convert_output.format is missing: it must be one of webp, jpeg, png."),
        ({"strip_metadata": "yes"}, "strip_metadata must be true or false, not 'yes'."),
        ({"request_id": "a b"}, "request_id"),
        ({"request_id": "a\n"}, "request_id"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"request_id": 7}, "request_id"),
        ({"return_outputs_as_base64": "yes"}, "return_outputs_as_base64"),
        ({"webhook": "https://x"}, "webhook"),
        ({"webhook": []}, "webhook"),
        ({"webhook": {}}, "webhook"),
        ({"webhook": {"url": None}}, "webhook"),
        ({"webhook": {"url": 1}}, "webhook"),
        ({"webhook": {"url": "https://a/\r\nX: y"}}, "webhook"),
        ({"webhook": {"url": "https://a/", "extra_params": []}}, "extra_params"),
        ({"webhook": {"url": "https://a/", "timeout": 0}}, "timeout"),
        ({"webhook": {"url": "https://a/", "timeout": True}}, "timeout"),
        ({"webhook": {"url": "https://a/", "timeout": 301}}, "timeout"),
        ({"webhook": {"url": "https://a/", "secret": "a\r\nb"}}, "secret"),
    ],
)
def test_fields_that_are_refused(api: Api, fields: dict[str, Any], text: str) -> None:
    answer = api.post("/generate/sync", body(**fields))

    assert answer.status_code == 422
    assert text in answer.json()["detail"]
    assert answer.json()["error"]["message"] == answer.json()["detail"]


@pytest.mark.parametrize("value", [-1, 1e9, "30", None, True, [1]])
def test_expected_times_that_are_refused(api: Api, value: Any) -> None:
    answer = api.post("/generate", {**body(), "expected_time": value})

    assert (answer.status_code, "expected_time" in answer.text) == (422, True)


def test_a_webhook_is_kept_and_its_secret_sealed(api: Api) -> None:
    webhook = {"url": "https://example.com/hook", "extra_params": {"status": "mine"}, "timeout": 5, "secret": "s3cret"}

    answer = api.post("/generate", body(webhook=webhook, s3={"access_key_id": "", "bucket_name": ""}))

    assert answer.status_code == 202
    job = newest(api)
    assert job.webhook == WebhookTarget(
        url="https://example.com/hook",
        extra_params={"status": "mine"},
        timeout_s=5.0,
        base_url=api.url,
        origin="request",
    )
    assert secrets_of(api.ledger, job.id) == {"webhook_secret": "s3cret"}
    api.post(f"/cancel/{job.id}")
    assert api.publisher.notified[-1] == job.id, "the end of a cancelled job is told at once"


def test_the_operators_webhook_is_the_default(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = settings_for(
        tmp_path_factory.mktemp("hook"), webhook_url="https://operator.example/", webhook_timeout_s=9
    )
    with running_api(settings) as api:
        api.worker.come_up()
        for fields in ({}, {"webhook": None}, {"webhook": {"url": "", "extra_params": {"a": 1}}}):
            assert api.post("/generate", body(**fields)).status_code == 202
            webhook = newest(api).webhook
            assert webhook is not None
            assert (webhook.url, webhook.extra_params, webhook.timeout_s) == (
                "https://operator.example/",
                {},
                9,
            )


@pytest.mark.parametrize("has_webhook", [False, True])
def test_a_client_that_hangs_up_cancels_its_job_unless_it_has_a_webhook(api: Api, has_webhook: bool) -> None:
    fields = {"webhook": {"url": "https://example.com/"}} if has_webhook else {}
    payload = json.dumps(body(request_id=f"gone-{has_webhook}", **fields)).encode()
    host, port = api.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)))) as client:
        head = f"POST /generate/sync HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        while api.get(f"/result/gone-{has_webhook}").status_code == 404:
            time.sleep(0.02)
        job = newest(api)
    deadline = time.monotonic() + (2.5 if has_webhook else 10 * PATIENCE)
    while time.monotonic() < deadline and not api.ledger.jobs.get(job.id).is_terminal:
        time.sleep(0.05)

    assert api.ledger.jobs.get(job.id).status == ("queued" if has_webhook else "canceled")
    if has_webhook:
        thread = threading.Thread(target=api.worker.run, args=(job.id, b"x"))
        thread.start()
        thread.join()


def test_comfyuis_own_words_are_there_when_asked_for(api: Api) -> None:
    answer = api.post("/generate", {"input": {"workflow_json": GRAPH}})
    job_id = answer.json()["id"]
    api.worker.run(job_id, b"one", b"two")
    assert api.get(f"/result/{job_id}").json()["comfyui_response"] == {}
    answer = api.get(f"/result/{job_id}", headers={"X-Include-ComfyUI-Response": "1"})
    ((_, entry),) = answer.json()["comfyui_response"].items()
    assert entry["status"] == {"status_str": "success", "completed": True}
    assert [file["filename"] for file in entry["outputs"]["2"]["images"]] == ["a_00000_.png", "a_00001_.png"]


def test_a_result_that_is_waited_for_says_how_long(api: Api) -> None:
    job_id = api.post("/generate", {"input": {"workflow_json": GRAPH}, "expected_time": 12}).json()["id"]
    place = api.get(f"/result/{job_id}").json()["queue_position"]
    assert place["current_queue"] == "preprocessing"
    assert 1 <= place["position"] <= place["queue_size"]
    assert place["estimated_wait_time"] >= 0
    api.worker.run(job_id, b"x")
    assert "queue_position" not in api.get(f"/result/{job_id}").json()


@pytest.mark.parametrize("path", ["/generate/sync", "/generate/stream"])
def test_a_proxy_that_hangs_up_first_costs_no_job_where_the_operator_says_so(tmp_path: Path, path: str) -> None:
    with running_api(settings_for(tmp_path, cancel_on_hangup=False)) as api:
        api.worker.come_up()
        body = {"input": {"workflow_json": GRAPH, "request_id": "kept"}}
        # As a proxy does that waits for a second.
        with pytest.raises(requests.RequestException):
            requests.post(api.url + path, json=body, timeout=1.0)
        # Longer than it takes to notice that the client is gone.
        time.sleep(2 * CLIENT_CHECK_S)
        assert api.get("/result/kept").json()["status"] == "pending"
        api.worker.run_next(b"x")
        assert api.get("/result/kept").json()["status"] == "completed"
