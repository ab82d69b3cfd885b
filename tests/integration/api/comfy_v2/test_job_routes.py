"""Comfy API v2 over HTTP, with jobs moved through the ledger by the test, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from api.contracts.comfy_v2 import events as streams
from api.contracts.comfy_v2 import job_routes as v2
from core.records.job_error import JobError
from core.records.progress import Progress
from tests.integration.api_fixtures import Api, postgres_database, running_api, settings_for, sse_frames
from tests.ledger_moves import secrets_of
from tests.makers import GRAPH

JOB_KEYS: dict[str, Any] = {
    "id": str,
    "status": str,
    "created_at": str,
    "started_at": (str, type(None)),
    "completed_at": (str, type(None)),
    "expires_at": str,
    "queue_position": (int, type(None)),
    "progress": (dict, type(None)),
    "outputs": list,
    "error": (dict, type(None)),
    "urls": dict,
}
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with ExitStack() as stack:
        url = stack.enter_context(postgres_database()) if request.param == "postgresql" else ""
        settings = settings_for(tmp_path_factory.mktemp("api"), database_url=url)
        running = stack.enter_context(running_api(settings))
        running.worker.come_up()
        yield running


@pytest.fixture(autouse=True)
def empty_queue(api: Api) -> Iterator[None]:
    # All of them take longer than an instance may be silent.
    api.worker.beat()
    yield
    for job in api.ledger.jobs.page(statuses=["queued", "running"], limit=1000):
        api.ledger.jobs.cancel(job.id)


def test_a_submitted_job_is_recorded_and_published(api: Api) -> None:
    answer = api.post("/api/v2/jobs", {"workflow": GRAPH, "priority": 3, "metadata": {"client": "acme"}})

    assert answer.status_code == 201
    job = answer.json()
    for key, kind in JOB_KEYS.items():
        assert isinstance(job[key], kind), key
    assert job["status"] == "queued"
    assert job["priority"] == 3
    assert job["metadata"] == {"client": "acme"}
    assert TIMESTAMP.fullmatch(job["created_at"])
    assert job["urls"]["self"] == f"{api.url}/api/v2/jobs/{job['id']}"
    assert api.publisher.turns[-1] == job["id"]
    assert api.ledger.jobs.get(job["id"]).nodes_total == 2


def test_links_name_the_host_the_client_used(api: Api) -> None:
    job_id = api.submit()

    job = api.get(f"/api/v2/jobs/{job_id}", headers={"Host": "localhost:9"}).json()

    assert job["urls"]["events"] == f"http://localhost:9/api/v2/jobs/{job_id}/events"


def test_a_job_through_its_life(api: Api) -> None:
    first, second = api.submit(), api.submit()
    assert api.get(f"/api/v2/jobs/{first}").json()["queue_position"] == 1
    assert api.get(f"/api/v2/jobs/{second}").json()["queue_position"] == 2
    assert "estimated_wait_ms" in api.get(f"/api/v2/jobs/{second}").json()

    claim = api.worker.claim(first)
    running = api.get(f"/api/v2/jobs/{first}").json()
    assert (running["status"], running["queue_position"]) == ("running", None)
    assert "estimated_wait_ms" not in running
    assert running["progress"] == {"value": 0.0, "nodes_done": 0, "nodes_total": 2, "message": "0/2 nodes"}
    snapshot = Progress(value=0.5, nodes_done=1, nodes_total=2, current_node="2")
    api.ledger.claims.progress(claim, snapshot)
    assert api.get(f"/api/v2/jobs/{first}").json()["progress"] == snapshot.to_json() | {"message": "2"}

    api.ledger.claims.generated(claim, [], outputs_reused=True)
    assert api.get(f"/api/v2/jobs/{first}").json()["status"] == "running", "delivering is no word of the contract"
    api.ledger.outputs.succeed(first, claim.attempt, [])
    done = api.get(f"/api/v2/jobs/{first}").json()
    assert done["status"] == "succeeded"
    assert done["outputs_reused"] is True
    assert done["metrics"]["queue_ms"] >= 0
    assert done["metrics"]["execution_ms"] >= 0
    assert done["started_at"] <= done["completed_at"]


def test_how_long_a_job_will_wait(api: Api) -> None:
    api.worker.come_up()
    shape = api.ledger.jobs.get(api.submit()).shape
    assert shape
    for _ in range(30):
        api.ledger.durations.learn(shape=shape, template=None, gpu="cuda:0 SIMULATED", seconds=7.0)
    last = [api.submit() for _ in range(3)][-1]
    # A look at the queue serves for a second.
    time.sleep(1.1)
    waits_ms = [api.get(f"/api/v2/jobs/{last}").json()["estimated_wait_ms"]]
    api.ledger.instances.down("gpu0@test", worker="w", state="unhealthy", reason="")
    time.sleep(1.1)
    waits_ms.append(api.get(f"/api/v2/jobs/{last}").json()["estimated_wait_ms"])
    api.worker.come_up()
    # Or a test that comes at once is told of a fleet without a GPU.
    time.sleep(1.1)

    assert waits_ms[0] == pytest.approx(21_000, rel=0.02)
    assert waits_ms[1] is None, "no GPU is healthy"


def test_a_failed_job_says_why(api: Api) -> None:
    job_id = api.submit()
    claim = api.worker.claim(job_id)
    error = {"code": "node_execution_error", "message": "no", "node_id": "2", "class_type": "X", "traceback": "t"}

    assert api.ledger.claims.fail(claim, JobError(**error))

    answer = api.get(f"/api/v2/jobs/{job_id}")
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"] == error


def test_cancelling(api: Api) -> None:
    running, queued = api.submit(), api.submit()
    claim = api.worker.claim(running)

    for _ in range(2):
        answer = api.post(f"/api/v2/jobs/{running}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "canceling")
    assert api.publisher.canceled[-1] == running
    assert api.get(f"/api/v2/jobs/{running}").json()["status"] == "canceling"
    for _ in range(2):
        assert api.post(f"/api/v2/jobs/{queued}/cancel").json()["status"] == "canceled"
    assert api.ledger.claims.canceled(claim)
    assert api.post(f"/api/v2/jobs/{running}/cancel").json()["status"] == "canceled"


def test_large_integers_survive_and_the_graph_comes_back(api: Api) -> None:
    graph = {**GRAPH, "9": {"class_type": "Values", "inputs": {"seed": 2**64 - 1}}}
    job_id = api.post("/api/v2/jobs", {"workflow": graph}).json()["id"]

    answer = api.get(f"/api/v2/jobs/{job_id}/workflow").json()

    assert answer == {"workflow": graph, "format": "api"}


@pytest.mark.parametrize("path", ["", "/cancel", "/events", "/workflow"])
@pytest.mark.parametrize("job_id", ["00000000-0000-0000-0000-000000000000", "x%00y", "%ff", "a" * 5000])
def test_unknown_jobs(api: Api, path: str, job_id: str) -> None:
    send = api.post if path == "/cancel" else api.get

    answer = send(f"/api/v2/jobs/{job_id}{path}")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_an_idempotency_key_is_good_for_one_job(api: Api) -> None:
    headers = {"Idempotency-Key": f"key-{time.time_ns()}"}
    bad = api.post("/api/v2/jobs", {"workflow": {}}, headers=headers)
    assert bad.status_code == 422
    statuses: list[int] = []

    def submit() -> None:
        answer = requests.post(f"{api.url}/api/v2/jobs", json={"workflow": GRAPH}, headers=headers, timeout=10)
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [201] + [422] * 7
    again = api.post("/api/v2/jobs", {"workflow": GRAPH}, headers=headers)
    error = again.json()["error"]
    job_id = api.get("/api/v2/jobs?limit=1").json()["jobs"][0]["id"]
    assert (error["code"], error["details"]) == ("idempotency_key_reuse", {"job_id": job_id})
    assert job_id in error["message"]


def test_the_partner_key_is_sealed_and_never_shown(api: Api) -> None:
    job_id = api.submit(extra_data={"api_key_comfy_org": "s3cret-key"})

    assert secrets_of(api.ledger, job_id) == {"api_key_comfy_org": "s3cret-key"}
    for path in ("", "/workflow"):
        assert "s3cret-key" not in api.get(f"/api/v2/jobs/{job_id}{path}").text


def test_an_asset_reference_is_never_passed_on(api: Api) -> None:
    graph = {**GRAPH, "3": {"class_type": "LoadImage", "inputs": {"image": {"__type": "core/ASSET", "info": {}}}}}

    answer = api.post("/api/v2/jobs", {"workflow": graph})

    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "missing_asset")


def test_a_refused_graph_brings_comfyuis_node_errors(api: Api) -> None:
    graph = {"1": {"class_type": "Nope", "inputs": {}}}

    error = api.post("/api/v2/jobs", {"workflow": graph}).json()["error"]

    assert error["code"] == "invalid_workflow"
    assert error["details"]["node_errors"]["1"]["class_type"] == "Nope"


def test_pages_of_the_list(api: Api) -> None:
    ids = [api.submit(metadata={"run": str(number), "page": "yes"}) for number in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    pages = 0
    while True:
        parameters: dict[str, Any] = {"metadata[page]": "yes", "limit": 2}
        page = api.get("/api/v2/jobs", params=parameters | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["jobs"]]
        assert page["truncated"] is False
        assert all(TIMESTAMP.fullmatch(job["create_time"]) for job in page["jobs"])
        pages += 1
        cursor = page["next_cursor"]
        if not cursor:
            break

    assert sorted(seen) == sorted(ids), "each job once"
    assert pages == 3
    assert [job["id"] for job in api.get("/api/v2/jobs", params={"metadata[run]": "3"}).json()["jobs"]] == [ids[3]]
    both = {"metadata[run]": "3", "metadata[page]": "no"}
    assert api.get("/api/v2/jobs", params=both).json()["jobs"] == []


def test_the_list_by_status(api: Api) -> None:
    delivered, waiting = api.submit(), api.submit()
    claim = api.worker.claim(delivered)
    api.ledger.claims.generated(claim, [], outputs_reused=False)

    by_status = {
        status: [job["id"] for job in api.get("/api/v2/jobs", params={"status": status}).json()["jobs"]]
        for status in ("queued", "running", "running,queued")
    }

    assert by_status["queued"] == [waiting]
    assert delivered in by_status["running"], "a job that is being delivered counts as running"
    assert set(by_status["running,queued"]) >= {delivered, waiting}
    api.ledger.outputs.succeed(delivered, claim.attempt, [])


def test_the_list_by_id_and_time(api: Api) -> None:
    one, other = api.submit(), api.submit()
    times = {job_id: api.get(f"/api/v2/jobs/{job_id}").json()["created_at"] for job_id in (one, other)}

    def listed(**parameters: str) -> list[str]:
        return [job["id"] for job in api.get("/api/v2/jobs", params=parameters).json()["jobs"]]

    for beginning in (one, one[:35], one[:8], one[:9]):
        assert listed(id_prefix=beginning) == [one]
    assert {one, other} <= set(listed(created_after=times[one]))
    assert one not in listed(created_before=times[one])
    assert one in listed(created_before="9999-12-31T23:59:59+00:00", created_after="1970-01-01 00:00:00Z")
    assert listed(created_after="9999-12-31T23:59:59Z") == []


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid_request"),
        ("limit=101", "invalid_request"),
        ("limit=-1", "invalid_request"),
        ("limit=abc", "invalid_request"),
        ("limit=1000000000", "invalid_request"),
        ("status=nope", "invalid_request"),
        ("status=delivering", "invalid_request"),
        ("cursor=garbage", "invalid_cursor"),
        ("cursor=%ff", "invalid_cursor"),
        ("cursor=", "invalid_cursor"),
        ("metadata[a]=1&metadata[b]=1&metadata[c]=1&metadata[d]=1", "invalid_metadata_filter"),
        ("metadata[a]=1&metadata[a]=1", "invalid_metadata_filter"),
        ("metadata[]=1", "invalid_metadata_filter"),
        ("metadata[a%20b]=1", "invalid_metadata_filter"),
        ("metadata[a]=%00", "invalid_metadata_filter"),
        ("metadata[a]=" + "x" * 257, "invalid_metadata_filter"),
        ("template=%00", "invalid_request"),
        ("template=", "invalid_request"),
        ("error=", "invalid_request"),
        ("error=%00", "invalid_request"),
        ("error=" + "x" * 256, "invalid_request"),
        ("id_prefix=", "invalid_request"),
        ("id_prefix=ABC", "invalid_request"),
        ("id_prefix=00000000_", "invalid_request"),
        ("id_prefix=" + "0" * 37, "invalid_request"),
        ("created_after=yesterday", "invalid_request"),
        ("created_after=2026-02-30T00:00:00Z", "invalid_request"),
        ("created_before=2026-01-01T00:00:00", "invalid_request"),
        ("created_before=2026-01-01", "invalid_request"),
        ("created_before=99999-01-01T00:00:00Z", "invalid_request"),
    ],
)
def test_bad_list_parameters(api: Api, query: str, code: str) -> None:
    answer = api.get(f"/api/v2/jobs?{query}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_events_of_a_finished_job(api: Api) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"one", b"two")

    answer = api.get(f"/api/v2/jobs/{job_id}/events")

    assert answer.headers["Content-Type"] == "text/event-stream"
    frames = sse_frames(answer.text)
    assert [name for name, _ in frames] == ["output", "output", "status"]
    assert frames[-1][1] == {"status": "succeeded"}


def test_a_stream_that_comes_back_misses_nothing(api: Api) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"one")

    answer = api.get(f"/api/v2/jobs/{job_id}/events", headers={"Last-Event-ID": "1"})

    frames = sse_frames(answer.text)
    assert [name for name, _ in frames] == ["status", "output", "status"]
    assert [data["status"] for name, data in frames if name == "status"] == ["running", "succeeded"]
    late = api.get(f"/api/v2/jobs/{job_id}/events", headers={"Last-Event-ID": "99"})
    assert [name for name, _ in sse_frames(late.text)] == ["output", "status"], "a number that is not ours"


def test_events_as_they_happen(api: Api) -> None:
    job_id = api.submit()
    received: list[str] = []
    first = threading.Event()

    def read() -> None:
        with requests.get(f"{api.url}/api/v2/jobs/{job_id}/events", stream=True, timeout=10) as answer:
            for chunk in answer.iter_content(None, decode_unicode=True):
                received.append(chunk)
                first.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(30)
    claim = api.worker.claim(job_id)
    api.worker.finish(claim, b"abc")
    reader.join(5)

    frames = sse_frames("".join(received))
    assert [name for name, _ in frames] == ["status", "status", "output", "status"]
    assert set(frames[0][1]) == {"status", "queue_position", "estimated_wait_ms", "queue"}
    assert (frames[0][1]["status"], frames[0][1]["queue_position"]) == ("queued", 1)
    assert [data["status"] for name, data in frames if name == "status"] == ["queued", "running", "succeeded"]
    assert all(ord(character) < 128 for character in "".join(received))


def test_a_job_tells_where_it_runs_and_where_it_was_lost(api: Api) -> None:
    api.worker.come_up("gpu9@test")
    job_id = api.submit()
    new = api.get(f"/api/v2/jobs/{job_id}").json()
    lost = api.worker.claim(job_id)
    running = api.get(f"/api/v2/jobs/{job_id}").json()
    api.ledger.requeue.release(lost, reason="http://127.0.0.1:8188 is gone", code="stuck")
    # The instance that lost it leaves it to the other.
    again = api.ledger.claims.claim("gpu9@test", named=job_id)
    assert again is not None
    assert again.job_id == job_id
    api.worker.finish(again, b"picture")
    done = api.get(f"/api/v2/jobs/{job_id}").json()
    log = api.get(f"/api/v2/jobs/{job_id}/events", headers={"Accept": "application/json"})

    def of(job: dict[str, Any]) -> tuple[Any, ...]:
        return job["attempt"], job["instance"], job["gpu"], len(job["losses"])

    gpu = "cuda:0 SIMULATED"
    assert [of(job) for job in (new, running, done)] == [
        (0, None, None, 0),
        (1, "gpu0@test", gpu, 0),
        (2, "gpu9@test", gpu, 1),
    ]
    (loss,) = done["losses"]
    assert loss == {"attempt": 1, "code": "stuck", "instance": "gpu0@test", "gpu": gpu, "at": loss["at"]}
    assert new["created_at"] <= loss["at"] <= done["completed_at"]
    result = api.get(f"/result/{job_id}").json()
    assert {name: result[name] for name in ("attempt", "instance", "gpu", "losses")} == {
        name: done[name] for name in ("attempt", "instance", "gpu", "losses")
    }
    assert log.headers["Content-Type"] == "application/json"
    assert log.json()["next_after"] is None
    assert [(line["type"], line["data"].get("status")) for line in log.json()["events"]] == [
        ("status", "queued"),
        ("status", "running"),
        ("status", "queued"),
        ("status", "running"),
        ("status", "running"),
        ("output", None),
        ("status", "succeeded"),
    ]
    assert log.json()["events"][1]["data"] == {"status": "running", "instance": "gpu0@test"}
    assert log.json()["events"][2]["data"] == {"status": "queued", "code": "stuck"}
    assert log.json()["events"][5]["data"] == {"id": done["outputs"][0]["id"]}
    assert "127.0.0.1:8188" not in log.text, "an inner address is nobody's business"
    api.ledger.instances.down("gpu9@test", worker="w", state="unhealthy", reason="")


def test_the_log_of_a_job_in_parts(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"one", b"two")
    monkeypatch.setattr(v2, "MAX_EVENTS", 2)
    seen: list[int] = []
    after: int | None = 0

    while after is not None:
        answer = api.get(f"/api/v2/jobs/{job_id}/events?after={after}", headers={"Accept": "application/json"}).json()
        seen += [line["seq"] for line in answer["events"]]
        after = answer["next_after"]

    assert seen == [1, 2, 3, 4, 5, 6]
    bad = api.get(f"/api/v2/jobs/{job_id}/events?after=x", headers={"Accept": "application/json"})
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("accept", ["text/event-stream", "*/*", "text/event-stream, application/json", None])
def test_who_takes_a_stream_gets_one(api: Api, accept: str | None) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"one")
    answer = api.get(f"/api/v2/jobs/{job_id}/events", headers={"Accept": accept})
    assert answer.headers["Content-Type"] == "text/event-stream"


def test_a_waiting_job_hears_when_its_place_moves(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "REREAD_S", 60.0)
    ahead = [api.submit() for _ in range(3)]
    job_id = api.submit()
    with requests.get(f"{api.url}/api/v2/jobs/{job_id}/events", stream=True, timeout=20) as answer:
        chunks = answer.iter_content(None, decode_unicode=True)
        seen = [sse_frames(next(chunks))[0]]
        for other in ahead:
            api.worker.run(other, b"one")
            # Frames that only bring a better estimate may come between.
            while seen[-1][1]["queue_position"] != 4 - ahead.index(other) - 1:
                seen += sse_frames(next(chunks))
        api.post(f"/api/v2/jobs/{job_id}/cancel")
        rest = "".join(chunks)

    assert {name for name, _ in seen} == {"status"}
    positions = [data["queue_position"] for _, data in seen]
    assert sorted(set(positions), reverse=True) == list(dict.fromkeys(positions)) == [4, 3, 2, 1]
    assert all(set(data) == {"status", "queue_position", "estimated_wait_ms", "queue"} for _, data in seen)
    assert {data["status"] for _, data in seen} == {"queued"}
    assert sse_frames(rest)[-1] == ("status", {"status": "canceled"})


def test_asset_metadata_and_content(api: Api) -> None:
    job_id = api.submit()
    content = bytes(range(256)) * 1000
    api.worker.run(job_id, content)
    output = api.get(f"/api/v2/jobs/{job_id}").json()["outputs"][0]
    path = f"/api/v2/assets/{output['id']}"

    asset = api.get(path).json()
    assert (asset["hash"], asset["size_bytes"], asset["job_id"]) == (output["hash"], len(content), job_id)
    whole = api.get(f"{path}/content")
    assert whole.content == content
    assert whole.headers["Content-Type"] == "image/png"
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    assert "a_00000_.png" in whole.headers["Content-Disposition"]
    head = api.session.head(f"{api.url}{path}/content", timeout=5)
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(content)), b"")
    assert api.get("/api/v2/assets/00000000-0000-0000-0000-000000000000").status_code == 404
    assert api.get("/api/v2/assets/00000000-0000-0000-0000-000000000000/content").status_code == 404


@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [
        ("bytes=0-", 206, b"0123456789"),
        ("bytes=2-4", 206, b"234"),
        ("bytes=8-100", 206, b"89"),
        ("bytes=-3", 206, b"789"),
        ("bytes=-100", 206, b"0123456789"),
        ("bytes=10-", 416, None),
        ("bytes=9-1", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=", 416, None),
        ("bytes=-", 416, None),
        ("bytes=a-b", 416, None),
        ("bytes=0-1,3-4", 416, None),
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(1000)), 416, None),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_ranges(api: Api, header: str, status: int, expected: bytes | None) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"0123456789")
    asset_id = api.ledger.jobs.get(job_id).outputs[0].id

    answer = api.get(f"/api/v2/assets/{asset_id}/content", headers={"Range": header})

    assert answer.status_code == status
    if expected is not None:
        assert answer.content == expected
    else:
        assert answer.headers["Content-Range"] == "bytes */10"
        assert answer.json()["error"]["code"] == "range_not_satisfiable"


@pytest.mark.parametrize("damage", ["gone", "shorter", "longer", "link", "outside"])
def test_a_damaged_output_is_not_served(api: Api, damage: str) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"0123456789")
    output = api.ledger.jobs.get(job_id).outputs[0]
    file = api.settings.outputs_dir / str(output.storage_key)
    if damage == "shorter":
        file.write_bytes(b"012")
    elif damage == "longer":
        file.write_bytes(b"0123456789a")
    else:
        file.unlink()
        secret = api.settings.data_dir / "secret"
        secret.write_bytes(b"0123456789")
        if damage == "link":
            file.symlink_to(secret)
        elif damage == "outside":
            file.parent.rmdir()
            file.parent.symlink_to(secret.parent)
            (secret.parent / file.name).write_bytes(b"0123456789")

    answer = api.get(f"/api/v2/assets/{output.id}/content")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "output_unavailable")


def test_routing_errors_are_in_the_envelope(api: Api) -> None:
    assert api.get("/api/v2/nope").json()["error"]["code"] == "not_found"
    wrong = api.session.put(f"{api.url}/api/v2/jobs", timeout=5)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert {"GET", "POST"} <= {method.strip() for method in wrong.headers["Allow"].split(",")}
    assert api.get("/api/v2//jobs").status_code == 404, "one address for each thing, and no redirect to it"
    assert api.get("/api/v2/jobs/").status_code == 404


def test_no_instance_known_is_429(api: Api, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_api(settings_for(tmp_path_factory.mktemp("empty"))) as empty:
        answer = empty.post("/api/v2/jobs", {"workflow": GRAPH})

    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "deployment_not_ready")
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_full_queue_is_429(api: Api, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_api(settings_for(tmp_path_factory.mktemp("full"), max_queued=2)) as full:
        full.worker.come_up()
        answers = [full.post("/api/v2/jobs", {"workflow": GRAPH}) for _ in range(4)]
        generated = full.post("/generate", {"input": {"workflow_json": GRAPH}})

    assert [answer.status_code for answer in answers] == [201, 201, 429, 429]
    assert answers[-1].json()["error"]["code"] == "queue_full"
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert (generated.status_code, generated.json()["error"]["code"]) == (503, "queue_full")


def test_a_graph_that_one_of_several_instances_can_run_is_taken(
    api: Api, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running_api(settings_for(tmp_path_factory.mktemp("mixed"))) as mixed:
        mixed.worker.come_up("gpu0@test", {"Other": {"input": {}, "output": [], "output_node": True}})
        mixed.worker.come_up("gpu1@test")
        assert mixed.post("/api/v2/jobs", {"workflow": GRAPH}).status_code == 201
        other = {"1": {"class_type": "Other", "inputs": {}}}
        assert mixed.post("/api/v2/jobs", {"workflow": other}).status_code == 201
        neither = {"1": {"class_type": "Third", "inputs": {}}}
        assert mixed.post("/api/v2/jobs", {"workflow": neither}).status_code == 422


def test_a_graph_out_of_a_picture_is_taken_with_its_notes(api: Api) -> None:
    graph = json.dumps(GRAPH).replace('"class_type": "SaveImage"', '"is_changed": [NaN], "class_type": "SaveImage"')
    answer = api.post("/api/v2/jobs", data=f'{{"workflow": {graph}}}', headers={"Content-Type": "application/json"})
    assert answer.status_code == 201, answer.text
    kept = api.get(f"/api/v2/jobs/{answer.json()['id']}/workflow").json()["workflow"]
    assert kept == GRAPH
