"""`/generate/stream`: a job's life in the answer to its submission, and a wait that a fleet has learned."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from api.contracts.generate import stream as generate_stream
from core.messaging.notices import Notice
from core.records.job_error import JobError
from core.records.progress import Progress
from tests.fleet import ALL, Fleet, work
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.ledger_moves import set_columns
from tests.makers import GRAPH
from tests.waiting import until

EVENT_KEYS = {
    *("request_id", "status", "message", "timestamp", "elapsed_time", "queue_info", "queue_position", "output_count"),
    "progress",
}
PLACE_KEYS = {"current_queue", "position", "queue_size", "estimated_wait_time", "reason"}
SIZE_KEYS = {"preprocess_queue_size", "generation_queue_size", "postprocess_queue_size"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as running:
        yield running


@pytest.fixture(autouse=True)
def healthy_and_empty(api: Api) -> Iterator[None]:
    api.worker.come_up()
    yield
    for job in api.ledger.jobs.page(statuses=["queued"], limit=1000):
        api.ledger.jobs.cancel(job.id)


class Client:
    """One open stream, read in a thread."""

    def __init__(self, api: Api, body: dict[str, Any], **options: Any) -> None:
        self._answer = requests.post(f"{api.url}/generate/stream", json=body, stream=True, timeout=20, **options)
        assert self._answer.status_code == 200, self._answer.text
        self.headers = self._answer.headers
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for chunk in self._answer.iter_content(None):
            self.text += chunk.decode("ascii")

    def events(self) -> list[dict[str, Any]]:
        """What has arrived."""
        blocks = [block for block in self.text.split("\n\n")[:-1] if not block.startswith(":")]
        assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
        return [json.loads(block.removeprefix("data: ")) for block in blocks]

    def next(self, count: int) -> dict[str, Any]:
        """The event with this number, from 1, once it is there."""
        until(lambda: len(self.events()) >= count, timeout_s=30, what=f"event {count}")
        return self.events()[count - 1]

    def all(self) -> list[dict[str, Any]]:
        """Every event of a stream that ends."""
        self._reader.join(30)
        assert not self._reader.is_alive(), "the stream did not end"
        return self.events()

    def close(self) -> None:
        self._answer.close()


@contextmanager
def streaming(api: Api, *, expected_time: float = 46.0, **fields: Any) -> Iterator[Client]:
    body = {"input": {"workflow_json": GRAPH, **fields}, "expected_time": expected_time}
    with closing(Client(api, body)) as client:
        yield client


def _job_id(api: Api, request_id: str) -> str:
    return api.ledger.jobs.get_by_request_id(request_id).id


def test_a_stream_tells_a_jobs_life_and_ends_with_its_result(api: Api) -> None:
    with streaming(api, request_id="life") as client:
        first = client.next(1)
        claim = api.worker.claim(_job_id(api, "life"))
        running = client.next(2)
        api.worker.finish(claim, b"pixels")
        events = client.all()

    assert client.headers["Content-Type"] == "text/event-stream"
    assert set(first) == EVENT_KEYS
    assert (set(first["queue_position"]), set(first["queue_info"])) == (PLACE_KEYS, SIZE_KEYS)
    assert (first["request_id"], first["status"], first["message"]) == ("life", "pending", "Waiting for a GPU")
    assert (first["output_count"], first["progress"]) == (0, None)
    told_at = datetime.fromisoformat(first["timestamp"].replace("Z", "+00:00"))
    assert abs(datetime.now(told_at.tzinfo) - told_at) < timedelta(seconds=15)
    assert (first["queue_position"]["current_queue"], first["queue_position"]["position"]) == ("preprocessing", 1)
    assert running["status"] == "generating"
    assert running["queue_position"]["current_queue"] == "generation"
    assert (running["queue_position"]["position"], running["queue_position"]["estimated_wait_time"]) == (0, 0.0)
    final = events[-1]
    assert set(final) == {"request_id", "status", "result", "elapsed_time"}
    assert (final["request_id"], final["status"]) == ("life", "final_result")
    assert final["result"] == api.get("/result/life").json()
    assert [event["elapsed_time"] for event in events] == sorted(event["elapsed_time"] for event in events)


def test_the_first_event_comes_at_once_and_the_last_as_soon_as_the_job_has_ended(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is held back like other events comes after the end of this test.
    monkeypatch.setattr(generate_stream, "PAUSE_S", 60.0)
    with streaming(api, request_id="prompt") as client:
        client.next(1)
        api.worker.run(_job_id(api, "prompt"), b"x")
        events = client.all()

    assert events[-1]["status"] == "final_result"


def test_outputs_inline(api: Api) -> None:
    with streaming(api, return_outputs_as_base64=True) as client:
        api.worker.run_next(b"pixels")
        result = client.all()[-1]["result"]

    assert base64.b64decode(result["output"][0]["data"]) == b"pixels"


def _fail(api: Api, job_id: str) -> None:
    assert api.ledger.claims.fail(api.worker.claim(job_id), JobError(code="node_execution_error", message="it broke"))


def _cancel(api: Api, job_id: str) -> None:
    assert api.post(f"/cancel/{job_id}").status_code == 200


def _expire(api: Api, job_id: str) -> None:
    set_columns(api.ledger, job_id, created_at_ms=1)
    assert api.ledger.requeue.expire_waiting(timeout_s=3600.0) == [job_id]


@pytest.mark.parametrize(("end", "status"), [(_fail, "failed"), (_cancel, "cancelled"), (_expire, "timeout")])
def test_every_end_is_a_final_result(api: Api, end: Callable[[Api, str], None], status: str) -> None:
    with streaming(api, request_id=f"end-{status}") as client:
        client.next(1)
        end(api, _job_id(api, f"end-{status}"))
        events = client.all()

    assert events[-1]["status"] == "final_result"
    assert events[-1]["result"] == api.get(f"/result/end-{status}").json()
    assert events[-1]["result"]["status"] == status


def test_a_place_in_the_queue_gets_better_without_the_job_being_touched(api: Api) -> None:
    ahead = api.submit()
    with streaming(api, request_id="second", expected_time=10.0) as client:
        first = client.next(1)["queue_position"]
        api.ledger.jobs.cancel(ahead)
        second = client.next(2)["queue_position"]
        _cancel(api, "second")
        client.all()

    assert (first["position"], first["queue_size"]) == (2, 2)
    assert first["estimated_wait_time"] > 0
    assert (second["position"], second["queue_size"], second["estimated_wait_time"]) == (1, 1, 0.0)


def test_without_a_healthy_gpu_nobody_knows_how_long_it_takes(api: Api) -> None:
    api.ledger.instances.down("gpu0@test", worker="w", state="unhealthy", reason="")
    time.sleep(1.1)
    with streaming(api, request_id="unknown") as client:
        place = client.next(1)["queue_position"]
        info = api.get("/queue-info").json()
        _cancel(api, "unknown")
        client.all()

    assert (place["position"], place["estimated_wait_time"]) == (None, None)
    assert place["reason"] == "No GPU of the fleet can run it now: the only GPU is unhealthy."
    assert (info["gpus"], info["estimated_wait_time"], info["preprocess_queue_size"]) == (0, None, 1)


def test_progress_is_told_at_most_twice_a_second(api: Api) -> None:
    with streaming(api, request_id="progress") as client:
        client.next(1)
        claim = api.worker.claim(_job_id(api, "progress"))
        begun_s = time.monotonic()
        for step in range(15):
            api.ledger.claims.progress(claim, Progress(value=step / 15, nodes_total=2))
            api.hub.notify(_progress(claim.job_id, step / 15))
            time.sleep(0.1)
        took_s = time.monotonic() - begun_s
        api.worker.finish(claim, b"x")
        values = [event["progress"]["value"] for event in client.all() if event.get("progress")]

    assert 2 <= len(values) <= 2 * took_s + 2
    assert values == sorted(values)


def _progress(job_id: str, value: float) -> Notice:
    return Notice(job_id=job_id, kind="progress", data={"value": value, "nodes_done": 0, "nodes_total": 2})


def test_a_quiet_stream_is_kept_alive(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_stream, "KEEPALIVE_S", 1.5)
    with streaming(api, request_id="quiet") as client:
        client.next(1)
        until(lambda: client.text.count(": keepalive\n\n") >= 2, timeout_s=30, what="two comments")
        _cancel(api, "quiet")
        assert client.all()[-1]["status"] == "final_result"


def test_what_cannot_be_submitted_is_refused_before_the_stream_begins(api: Api) -> None:
    broken = api.post("/generate/stream", {"input": {"workflow_json": {"1": {"class_type": "Nope", "inputs": {}}}}})
    neither = api.post("/generate/stream", {"input": {}})

    assert (broken.status_code, broken.json()["error"]["code"]) == (422, "invalid_workflow")
    assert neither.json()["detail"] == "Must provide either workflow_json OR modifier"


def test_a_client_that_hangs_up_takes_its_job_with_it_unless_others_want_it(api: Api) -> None:
    names = ("access_key_id", "secret_access_key", "bucket_name", "region")
    s3 = {**dict.fromkeys(names, "some-name"), "endpoint_url": "https://s3.example.com"}
    unwanted = [
        _hung_up(api, "/generate/stream", "stream"),
        _hung_up(api, "/generate/sync", "sync"),
    ]
    wanted = [
        _hung_up(api, "/generate/stream", "stream-hook", webhook={"url": "https://example.com/"}),
        _hung_up(api, "/generate/stream", "stream-s3", s3=s3),
        _hung_up(api, "/generate/sync", "sync-s3", s3=s3),
    ]

    def statuses(job_ids: list[str]) -> set[str]:
        return {api.ledger.jobs.get(job_id).status for job_id in job_ids}

    until(lambda: statuses(unwanted) == {"canceled"}, timeout_s=15, what="the cancellation")
    # As long as it takes to notice.
    time.sleep(1.2)
    assert statuses(wanted) == {"queued"}


def _hung_up(api: Api, path: str, request_id: str, **fields: Any) -> str:
    """Submit, hang up as soon as the job is there, and return its id."""
    payload = json.dumps({"input": {"workflow_json": GRAPH, "request_id": request_id, **fields}})
    host, port = api.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)))) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n{payload}".encode())
        until(lambda: api.get(f"/result/{request_id}").status_code == 200, what=request_id)
    return _job_id(api, request_id)


@pytest.mark.slow
@pytest.mark.slow
def test_what_a_fleet_has_learned_tells_how_long_a_queue_takes(tmp_path: Path) -> None:
    with Fleet(tmp_path, simulated_gpus="1") as fleet:
        fleet.start(*(name for name in ALL if name != "gpu1")).ready(gpus=1)
        unknown = requests.get(f"{fleet.base_url}/queue-info", timeout=5).json()
        for seed in range(2):
            fleet.wait(fleet.submit(work(0.5, seed=seed)))
        # The same once more comes from ComfyUI's cache; nothing can be learned from it.
        fleet.wait(fleet.submit(work(0.5, seed=1)))
        # A look at the queue serves for a second.
        time.sleep(1.1)
        queued = [fleet.submit(work(0.5, seed=10 + number)) for number in range(4)]
        asked_s = time.time()
        estimated_s = fleet.job(queued[-1])["estimated_wait_ms"] / 1000
        done = fleet.wait(queued[-1])

    ended_s = datetime.fromisoformat(done["completed_at"].replace("Z", "+00:00")).timestamp()
    assert (unknown["gpus"], unknown["estimated_wait_time"]) == (1, 0.0)
    assert estimated_s == pytest.approx(ended_s - asked_s - 0.5, rel=0.3)
    assert estimated_s == pytest.approx(1.5, rel=0.3)
