"""The records of a job: what a client wants, what a row keeps, and what becomes of both in other versions."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import pytest

from core.contracts.registry import CONTRACTS
from core.ledger.claims import Claim
from core.ledger.database.rows import JOB_COLUMNS
from core.ledger.database.stored_fields import column_of, columns_from, record_from
from core.ledger.database.tables import jobs
from core.records.bucket_target import BucketTarget
from core.records.job import STATUSES, TERMINAL, TRANSITIONS, ContractName, InputRef, Job, JobSpec, Status
from core.records.job_request import JobRequest
from core.records.output_options import AS_THEY_ARE, ConvertOptions, OutputOptions
from core.records.webhook_target import WebhookTarget

#: What of a request its job's row does not keep under its name: it is used up, sealed, kept keyed, or large.
USED_UP = {"graph", "files", "request_digest", "idempotency_key", "extra_pnginfo", "retention_s", "secrets"}
#: Columns of a look-up that say how the ledger stands with a job, and are of no use to anybody else.
BOOK_KEEPING = {
    "lost_attempts", "lost_on", "lost_code", "on_deck", "lease_until_ms", "request_mark", "callers", "delivery_losses",
    "line", "start_by_ms", "charged_ms",
}  # fmt: skip
BUCKET = BucketTarget(endpoint_url="https://s3.example", bucket_name="b", region=None, prefix="a/b", addressing="path")
RECORDS: list[Any] = [
    WebhookTarget(url="https://a.example/"),
    WebhookTarget(
        url="https://a.example/",
        events=("job.started", "job.failed"),
        extra_params={"n": [1, {"a": None}]},
        timeout_s=5.0,
        base_url="https://api.example",
        origin="environment",
        sealed=("webhook_headers", "webhook_secret"),
    ),
    AS_THEY_ARE,
    OutputOptions(bucket=BUCKET, convert=ConvertOptions(format="webp", quality=80, lossless=False)),
    OutputOptions(strip_metadata=True),
    BUCKET,
    InputRef(name="job/0-a.png", key="ab/cd"),
]


def names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


def test_a_field_that_a_client_asks_for_stands_once_and_has_a_column() -> None:
    """A new one is written in four places: the body and what reads it, the record, and the table."""
    assert names(JobRequest) - USED_UP == names(JobSpec)
    assert names(JobSpec) < names(Job)
    assert {column_of(name) for name in names(JobSpec)} < set(jobs.columns.keys())


def test_a_look_up_reads_all_that_a_job_shows() -> None:
    kept_elsewhere = {"outputs", "missing_outputs"}

    assert {column_of(name) for name in names(Job) - kept_elsewhere} == {
        column.name for column in JOB_COLUMNS
    } - BOOK_KEEPING


def test_a_claim_is_read_from_columns_of_its_names() -> None:
    found_out = {"job_id", "has_webhook", "has_secrets", "is_gated", "load_s", "run_s", "cold_load_s", "models"}

    assert {column_of(name) for name in names(Claim) - found_out} < set(jobs.columns.keys())


def test_statuses_are_those_of_their_type() -> None:
    assert get_args(Status) == STATUSES
    assert all(after <= set(STATUSES) for after in TRANSITIONS.values())
    assert set(STATUSES) > TERMINAL


def test_contracts_are_those_of_their_type() -> None:
    assert set(CONTRACTS) == set(get_args(ContractName))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was_written(record: Any) -> None:
    written = record.to_json()

    assert type(record).from_json(written) == record
    assert type(record).from_json({**written, "of_a_newer_version": 1}) == record


def test_what_says_nothing_is_not_written() -> None:
    assert set(RECORDS[0].to_json()) == {"url", "extra_params", "timeout_s", "base_url", "origin"}
    assert ConvertOptions(format="png").to_json() == {"format": "png"}
    assert columns_from(JobSpec(contract="v2"), ["output_options", "webhook"]) == {"delivery": None, "webhook": None}


@pytest.mark.parametrize("written", [{}, {"events": None, "sealed": None}, {"url": "", "origin": "request"}])
def test_a_webhook_of_an_earlier_version_is_read(written: dict[str, Any]) -> None:
    found = WebhookTarget.from_json(written)

    assert (found.url, found.events, found.origin) == ("", (), "request")


@pytest.mark.parametrize("written", [5, "x", [], {"convert": {"quality": 5}}, {"s3": "bucket"}])
def test_a_record_that_cannot_be_read_hides_no_job(written: Any) -> None:
    with pytest.raises(TypeError):
        OutputOptions.from_json(written)
    assert record_from(OutputOptions, written) is None
