"""What a webhook says of a job in the words of Comfy API v2, and what gives way when that is too much."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from core.contracts.comfy_v2 import error_view
from core.contracts.comfy_v2_events import MAX_BODY_BYTES, MAX_EXTRA_BYTES, event_body, size_bytes
from core.contracts.generate import generate_result
from core.links import Links
from core.records.job import CANCELED, DELIVERING, EXPIRED, FAILED, RUNNING, SUCCEEDED, TERMINAL, Job, Status
from core.records.job_error import JobError
from core.records.output import BucketResult, Output
from core.records.progress import Progress
from core.records.webhook_events import COMPLETED, DEFAULT_EVENTS, END_EVENTS, EVENTS, FAILURE, PROGRESS
from core.records.webhook_target import WebhookTarget
from tests.makers import job_record

WEBHOOK = WebhookTarget(url="https://example.com/?token=t", extra_params={"n": 1}, base_url="https://api")
OUTPUT = Output(
    id="a1",
    job_id="j1",
    node_id="9",
    name="out.png",
    kind="image",
    content_type="image/png",
    size_bytes=10,
    hash="blake3:" + "0" * 64,
    storage_key="j1/out.png",
)
ERROR = JobError(code="node_execution_error", message="boom", node_id="3", class_type="K", traceback="line 1")
#: As many labels as a request may have, each as long as it may be, of characters that JSON in ASCII writes in twelve.
LABELS = {f"{number:040}": "\U0001f600" * 64 for number in range(16)}


def job(status: Status = SUCCEEDED, **fields: Any) -> Job:
    return job_record(status, **{"webhook": WEBHOOK, **fields})


def test_a_finished_job() -> None:
    done = job(started_at_ms=1_100, completed_at_ms=1_600, outputs=(OUTPUT,), metadata={"a": "b"}, parameters={"s": 1})

    assert event_body(done, COMPLETED, seq=4, at_ms=1_600) == {
        "type": "job.completed",
        "timestamp": "1970-01-01T00:00:01.600Z",
        "data": {
            "id": "j1",
            "status": "succeeded",
            "sequence": 4,
            "created_at": "1970-01-01T00:00:01.000Z",
            "started_at": "1970-01-01T00:00:01.100Z",
            "completed_at": "1970-01-01T00:00:01.600Z",
            "progress": None,
            "error": None,
            "outputs": [
                {
                    "node_id": "9",
                    "name": "out.png",
                    "type": "image",
                    "content_type": "image/png",
                    "size_bytes": 10,
                    "id": "a1",
                    "hash": "blake3:" + "0" * 64,
                    "url": "https://api/api/v2/assets/a1/content",
                    "url_expires_at": "1970-01-01T00:00:09.000Z",
                    "job_id": "j1",
                }
            ],
            "metadata": {"a": "b"},
            "parameters": {"s": 1},
            "extra": {"n": 1},
        },
    }


def test_a_job_that_failed_says_why_and_one_on_its_way_how_far_it_is() -> None:
    failed = event_body(job(FAILED, error=ERROR), FAILURE, seq=3, at_ms=0)["data"]
    running = event_body(
        job(RUNNING, progress=Progress(value=0.4, nodes_done=1, nodes_total=3), webhook=None), PROGRESS, seq=2, at_ms=0
    )["data"]

    assert (failed["error"], failed["outputs"]) == (ERROR.to_json(), [])
    assert (running["progress"], running["error"], "extra" in running) == (
        {**Progress(value=0.4, nodes_done=1, nodes_total=3).to_json(), "message": "1/3 nodes"},
        None,
        False,
    )


def test_a_file_that_did_not_reach_its_bucket_says_so() -> None:
    lost = replace(OUTPUT, bucket_result=BucketResult(error="no such bucket"))

    (output,) = event_body(job(outputs=(lost,)), "job.delivery_failed", seq=4, at_ms=0)["data"]["outputs"]

    assert output["upload"] == {"url": None, "error": "no such bucket"}


def test_the_statuses_are_those_of_the_api() -> None:
    assert event_body(job(DELIVERING), PROGRESS, seq=2, at_ms=0)["data"]["status"] == "running"
    for status in (CANCELED, EXPIRED):
        assert event_body(job(status), END_EVENTS[status], seq=2, at_ms=0)["data"]["status"] == status


def test_outputs_give_way_from_the_end() -> None:
    many = tuple(replace(OUTPUT, id=f"a{number}") for number in range(500))

    body = event_body(job(outputs=many), COMPLETED, seq=4, at_ms=0)

    kept = body["data"]["outputs"]
    assert body["data"]["truncated"] is True
    assert [output["id"] for output in kept] == [f"a{number}" for number in range(len(kept))]
    assert MAX_BODY_BYTES - 2 * size_bytes(kept[0]) < size_bytes(body) <= MAX_BODY_BYTES


def test_what_can_be_asked_for_later_gives_way_before_outputs() -> None:
    long = {"prompt": "x" * MAX_BODY_BYTES}

    body = event_body(job(outputs=(OUTPUT,), parameters=long), COMPLETED, seq=4, at_ms=0)["data"]

    assert ("parameters" in body, len(body["outputs"]), body["truncated"]) == (False, 1, True)


def test_a_body_that_just_fits_is_whole() -> None:
    spare = MAX_BODY_BYTES - size_bytes(event_body(job(parameters={"p": ""}), COMPLETED, seq=4, at_ms=0))
    for chars, is_cut in ((spare, False), (spare + 1, True)):
        body = event_body(job(parameters={"p": "x" * chars}), COMPLETED, seq=4, at_ms=0)
        assert ("truncated" in body["data"]) is is_cut


def test_an_error_that_an_earlier_version_kept_whole_is_shown_in_part() -> None:
    failed = job(FAILED, error=replace(ERROR, message="begin " + "x" * 3_000_000 + " end", traceback="t" * 3_000_000))

    view = error_view(failed)
    assert view is not None
    for message in (view["message"], generate_result(failed, links=Links(base_url=""))["message"]):
        assert message.startswith("begin x")
        assert " end" in message[-40:]
        assert len(message) < 5_000
    assert len(view["traceback"] or "") < 40_000


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_nothing_makes_it_longer_than_it_may_be(status: Status) -> None:
    extra = {"k": "x" * (MAX_EXTRA_BYTES - 9)}
    error = JobError(code="c", message="😀" * 5000, node_id="1", traceback="😀" * 5000)
    worst = job(
        status,
        metadata=LABELS,
        parameters={"p": "x" * 10**6},
        error=error,
        outputs=(OUTPUT,) * 300,
        webhook=replace(WEBHOOK, extra_params=extra),
    )

    body = event_body(worst, END_EVENTS[status], seq=4, at_ms=0)

    assert len(json.dumps(body).encode()) <= MAX_BODY_BYTES
    assert (body["data"]["id"], body["data"]["extra"], body["data"]["truncated"]) == ("j1", extra, True)


def test_the_default_events_are_the_ends_and_what_did_not_arrive() -> None:
    assert set(DEFAULT_EVENTS) == {*END_EVENTS.values(), "job.delivery_failed"} < set(EVENTS)
    assert set(END_EVENTS) == TERMINAL
