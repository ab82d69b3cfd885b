"""A job's record through the ledger and back: every field that a client can ask for."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from core.ledger import Ledger
from core.records.bucket_target import BucketTarget
from core.records.job import InputRef, JobSpec
from core.records.output_options import AS_THEY_ARE, ConvertOptions, OutputOptions
from core.records.requirements import Requirements
from core.records.webhook_target import WebhookTarget
from tests.ledger_moves import WEBHOOK, set_columns, submit

BUCKET = BucketTarget(endpoint_url=None, bucket_name="b", region="eu-west-1", prefix="", origin="environment")
#: Each field of a job that a client can ask for, with a value that is not its default.
ASKED: dict[str, Any] = {
    "tenant": "acme",
    "contract": "generate",
    "key_id": "k" * 36,
    "label": "a label",
    "batch": "b" * 36,
    "batch_index": 7,
    "varied": {"1.color": 7},
    "replaces": "r" * 36,
    "rerun_of": "o" * 36,
    "drawn": ("seed",),
    "priority": -3,
    "metadata": {"name": "é\U0001f600", "deep": [1, None, {"x": 0.1}]},
    "template": "portrait",
    "parameters": {"seed": 2**64 - 1, "prompt": "a cat"},
    "output_options": OutputOptions(bucket=BUCKET, convert=ConvertOptions(format="jpeg"), strip_metadata=True),
    "expected_time_s": 2.5,
    "request_id": "mine",
    "webhook": WebhookTarget(url="https://a.example/", events=("job.failed",), sealed=("webhook_headers",)),
    "timeout_s": 90.0,
    "requires": Requirements(vram_gb=24.0),
    "start_within_s": 60.0,
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
}
ADDED: dict[str, Any] = {"nodes_total": 4, "shape": "s" * 64, "inputs": (InputRef(name="n", key="k"),)}


def test_nothing_that_a_client_asks_for_is_lost(ledger: Ledger) -> None:
    assert set(ASKED) == {field.name for field in fields(JobSpec)}

    job = submit(ledger, **ASKED, **ADDED)

    assert {name: getattr(job, name) for name in ASKED | ADDED} == ASKED | ADDED
    assert ledger.jobs.get(job.id) == job


def test_a_claim_knows_what_its_job_needs(ledger: Ledger) -> None:
    submit(ledger, **ASKED, **ADDED, extra_pnginfo={"workflow": {"id": 2**70}}, graph_text='{"1":{}}')

    claim = ledger.claims.claim("gpu0@here")

    assert claim is not None
    assert (claim.graph, claim.extra_pnginfo) == ('{"1":{}}', f'{{"workflow":{{"id":{2**70}}}}}')
    assert (claim.template, claim.timeout_s, claim.has_webhook) == ("portrait", 90.0, True)
    assert (claim.nodes_total, claim.shape, claim.inputs) == (4, "s" * 64, ADDED["inputs"])


def test_a_job_whose_row_is_damaged_is_shown_and_comes_to_an_end(ledger: Ledger) -> None:
    job = submit(ledger, webhook=WEBHOOK)
    set_columns(ledger, job.id, delivery={"s3": "bucket"}, webhook=["a"])

    ended = ledger.jobs.cancel(job.id)

    assert (ended.status, ended.output_options, ended.webhook) == ("canceled", AS_THEY_ARE, None)
    assert ledger.jobs.get(job.id) == ended
