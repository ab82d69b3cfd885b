"""A job in the words of the /generate contract, in every status."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from core.contracts.comfy_v2 import progress_view
from core.contracts.generate import MESSAGES, STATUS_WORDS, generate_result, webhook_body
from core.links import Links
from core.records.job import CANCELED, DELIVERING, EXPIRED, FAILED, QUEUED, RUNNING, STATUSES, SUCCEEDED, Job, Status
from core.records.job_error import JobError
from core.records.output import BucketResult, Output
from core.records.progress import Progress
from core.records.webhook_target import WebhookTarget
from tests.makers import job_record

OUTPUT = Output(
    id="a1",
    job_id="j1",
    node_id="9",
    name="out_00001_.png",
    kind="image",
    content_type="image/png",
    size_bytes=10,
    hash="blake3:" + "0" * 64,
    storage_key="j1/a1/out_00001_.png",
    subfolder="j1",
    created_at_ms=1_500,
)
THERE = BucketResult(url="https://bucket.example/a?signed", expires_at_ms=1, key="a")
REFUSED = BucketResult(error="the S3 server answered 503")


def _job(status: Status, **fields: Any) -> Job:
    return job_record(status, **{"contract": "generate", "last_seq": 3, "expires_at_ms": 9_000, **fields})


def test_a_finished_job() -> None:
    job = _job(SUCCEEDED, started_at_ms=1_100, generated_at_ms=1_400, completed_at_ms=1_600, outputs=(OUTPUT,))

    assert generate_result(job, links=Links(base_url="https://api.example")) == {
        "id": "j1",
        "status": "completed",
        "message": "Request completed successfully",
        "output": [
            {
                "filename": "out_00001_.png",
                "local_path": "j1/a1/out_00001_.png",
                "type": "output",
                "subfolder": "j1",
                "node_id": "9",
                "output_type": "images",
                "url": "https://api.example/api/v2/assets/a1/content",
                "upload_error": None,
                "data": None,
                "mimetype": "image/png",
                "error": None,
            }
        ],
        "timings": {
            "queued_at_ms": 1_000,
            "preprocess_ms": 100,
            "generation_ms": 300,
            "postprocess_ms": 200,
            "completed_at_ms": 1_600,
            "total_ms": 600,
        },
        "comfyui_response": {},
    }


def test_the_clients_own_id_is_answered() -> None:
    assert generate_result(_job(QUEUED, request_id="mine"), links=Links(base_url=""))["id"] == "mine"


def test_times_that_have_not_come_are_null() -> None:
    timings = generate_result(_job(RUNNING, started_at_ms=1_250), links=Links(base_url=""))["timings"]

    assert timings["preprocess_ms"] == 250
    assert timings["generation_ms"] is timings["postprocess_ms"] is timings["total_ms"] is None


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_has_a_word_and_a_message(status: Status) -> None:
    result = generate_result(_job(status, error=JobError(code="c", message=" m \n")), links=Links(base_url=""))

    assert result["status"] == STATUS_WORDS[status]
    assert result["message"] == ("m" if status == FAILED else MESSAGES[status])
    json.dumps(result)


def test_the_final_words_are_those_of_the_contract() -> None:
    assert [STATUS_WORDS[status] for status in (SUCCEEDED, FAILED, CANCELED, EXPIRED)] == [
        "completed",
        "failed",
        "cancelled",
        "timeout",
    ]


@pytest.mark.parametrize(
    ("status", "noted_at_ms", "is_told"),
    [(RUNNING, 0, True), (DELIVERING, 7, True), (DELIVERING, 0, False), (SUCCEEDED, 7, False), (QUEUED, 0, False)],
)
def test_why_nothing_moves_is_told_while_it_is_so(status: Status, noted_at_ms: int, is_told: bool) -> None:
    note = "Fetching its input file."
    progress = Progress(nodes_total=2, note=note, noted_at_ms=noted_at_ms)
    job = job_record(status, progress=progress)

    result, view = generate_result(job, links=Links(base_url="")), progress_view(job)

    assert view is not None
    assert (result["message"] == note, view["message"] == note, view.get("note") == note) == (is_told,) * 3
    assert is_told or "note" not in view


def test_a_failure_names_the_node() -> None:
    error = JobError(code="node_execution_error", message="out of range", node_id="3", class_type="KSampler")

    assert (
        generate_result(_job(FAILED, error=error), links=Links(base_url=""))["message"]
        == "out of range (node 3, KSampler)"
    )


def test_a_failure_without_a_record_still_says_so() -> None:
    assert generate_result(_job(FAILED), links=Links(base_url=""))["message"] == "Request failed"


def test_the_webhook_has_extra_and_no_comfyui_response() -> None:
    webhook = WebhookTarget(url="http://h", extra_params={"user": 7}, base_url="http://me")

    body = webhook_body(_job(SUCCEEDED, webhook=webhook, outputs=(OUTPUT,)))

    assert set(body) == {"id", "status", "message", "output", "timings", "extra"}
    assert body["extra"] == {"user": 7}
    assert body["output"][0]["url"] == "http://me/api/v2/assets/a1/content"


def test_a_webhook_without_extras() -> None:
    assert webhook_body(_job(SUCCEEDED))["extra"] == {}


def test_a_file_in_a_bucket_is_fetched_from_there() -> None:
    there = replace(OUTPUT, bucket_result=THERE)

    result = generate_result(_job(SUCCEEDED, outputs=(there,)), links=Links(base_url="http://me"))

    assert result["message"] == "Request completed successfully"
    assert (result["output"][0]["url"], result["output"][0]["upload_error"]) == (
        "https://bucket.example/a?signed",
        None,
    )


def test_a_file_that_is_in_no_bucket_is_fetched_from_us() -> None:
    there = replace(OUTPUT, bucket_result=THERE)
    absent = replace(OUTPUT, bucket_result=REFUSED, conversion_error="it is damaged")

    result = generate_result(_job(SUCCEEDED, outputs=(there, absent)), links=Links(base_url="http://me"))

    assert result["status"] == "completed"
    assert result["message"] == (
        "Request completed, but 1 of 2 files could not be uploaded: the S3 server answered 503"
    )
    output = result["output"][1]
    assert output["url"] == "http://me/api/v2/assets/a1/content"
    assert (output["upload_error"], output["error"]) == ("the S3 server answered 503", "it is damaged")
