"""What requests may say about their outputs, in each contract: buckets, formats, metadata, and who is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.records.job import Job
from core.records.output_options import AS_THEY_ARE, ConvertOptions
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.ledger_moves import secrets_of
from tests.makers import GRAPH

S3 = {
    "access_key_id": "key-of-a-client",
    "secret_access_key": "secret-of-a-client",
    "bucket_name": "bucket",
    "prefix": "a/b",
}
CONVERT = {"format": "webp", "quality": 70}
WEBHOOK = {"url": "https://example.com/hook", "extra_params": {"n": 1}, "timeout": 5, "secret": "s3cret"}
OPERATORS: dict[str, Any] = {
    "s3_access_key_id": "operators-key",
    "s3_secret_access_key": "operators-secret",
    "s3_bucket_name": "operators-bucket",
    "webhook_url": "https://operator.example/",
    "webhook_secret": "operators-webhook-secret",
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server with a bucket and a webhook of its own, and a template that takes nothing."""
    folder: Path = tmp_path_factory.mktemp("workflows")
    (folder / "tile.json").write_text(json.dumps(GRAPH))
    settings = settings_for(tmp_path_factory.mktemp("api"), workflows_dir=folder, **OPERATORS)
    with running_api(settings) as running:
        running.worker.come_up()
        yield running


def submitted(api: Api, contract: str, **fields: Any) -> Job:
    """The job of a request with these fields, by one of the three ways to say them."""
    path, body = {
        "v2": ("/api/v2/jobs", {"workflow": GRAPH, **fields}),
        "workflows": ("/workflows/tile", {"parameters": {}, **fields}),
        "generate": ("/generate", {"input": {"workflow_json": GRAPH, **fields}}),
    }[contract]
    answer = api.post(path, body)
    assert answer.status_code in (201, 202), answer.text
    return api.ledger.jobs.get(api.ledger.jobs.get_by_request_id(answer.json()["id"]).id)


@pytest.mark.parametrize("contract", ["v2", "workflows", "generate"])
def test_wishes_are_recorded_and_their_secrets_sealed(api: Api, contract: str) -> None:
    job = submitted(api, contract, s3=S3, convert_output=CONVERT, strip_metadata=True)

    options = job.output_options
    assert (options.convert, options.strip_metadata) == (ConvertOptions.from_json(CONVERT), True)
    assert options.bucket is not None
    assert (options.bucket.bucket_name, options.bucket.prefix, options.bucket.origin) == ("bucket", "a/b", "request")
    assert "secret-of-a-client" not in repr(job)
    assert secrets_of(api.ledger, job.id)["s3"]["secret_access_key"] == "secret-of-a-client"
    shown = api.get(f"/api/v2/jobs/{job.id}").text + api.get(f"/result/{job.id}").text
    assert "of-a-client" not in shown


@pytest.mark.parametrize(
    "fields", [{}, {"s3": None, "webhook": None}, {"s3": dict.fromkeys(S3, "") | {"connect_timeout": 60}}]
)
@pytest.mark.parametrize("contract", ["v2", "workflows"])
def test_the_operators_blocks_are_not_for_jobs_of_the_other_contracts(
    api: Api, contract: str, fields: dict[str, Any]
) -> None:
    job = submitted(
        api, contract, **{name: value for name, value in fields.items() if contract != "v2" or name == "s3"}
    )

    assert (job.output_options, job.webhook) == (AS_THEY_ARE, None)
    assert secrets_of(api.ledger, job.id) == {}


def test_a_prefix_alone_asks_for_the_operators_bucket(api: Api) -> None:
    job = submitted(api, "v2", s3={"prefix": "mine"})

    assert job.output_options.bucket is not None
    assert job.output_options.bucket.bucket_name == "operators-bucket"
    assert secrets_of(api.ledger, job.id) == {}, "they are taken from the settings when they are needed"


def test_a_template_takes_a_webhook_of_its_own(api: Api) -> None:
    job = submitted(api, "workflows", webhook=WEBHOOK, extra_data={"api_key_comfy_org": "partner"}, s3=S3)

    assert job.webhook is not None
    assert (job.webhook.url, job.webhook.extra_params, job.webhook.timeout_s) == (
        WEBHOOK["url"],
        {"n": 1},
        5.0,
    )
    secrets = secrets_of(api.ledger, job.id)
    assert (secrets["webhook_secret"], secrets["api_key_comfy_org"], "s3" in secrets) == ("s3cret", "partner", True)
    assert job.template == "tile"


def test_a_requests_webhook_never_has_the_operators_secret(api: Api) -> None:
    own = submitted(api, "generate", webhook={"url": "https://example.com/"})
    default = submitted(api, "generate")

    assert own.webhook is not None
    assert default.webhook is not None
    assert (own.webhook.origin, default.webhook.origin) == ("request", "environment")
    for job in (own, default):
        # The operator's is taken from the settings when it is needed.
        assert "webhook_secret" not in secrets_of(api.ledger, job.id)


@pytest.mark.parametrize("contract", ["v2", "workflows", "generate"])
def test_a_webhook_may_choose_its_events_and_have_two_secrets(api: Api, contract: str) -> None:
    events = ["job.started", "job.failed", "job.started"]
    secrets = ["whsec_" + "A" * 32, "older"]

    job = submitted(api, contract, webhook={**WEBHOOK, "events": events, "secret": secrets})

    assert job.webhook is not None
    assert job.webhook.events == ("job.started", "job.failed")
    assert secrets_of(api.ledger, job.id) == {"webhook_secret": secrets}
    shown = api.get(f"/api/v2/jobs/{job.id}").text + api.get(f"/result/{job.id}").text
    assert "whsec_" not in shown


@pytest.mark.parametrize("contract", ["v2", "workflows", "generate"])
def test_headers_of_a_webhook_are_sealed_with_its_secret(api: Api, contract: str) -> None:
    headers = {"Authorization": "Basic of-a-gateway"}

    job = submitted(api, contract, webhook={**WEBHOOK, "headers": headers})

    assert secrets_of(api.ledger, job.id) == {"webhook_secret": WEBHOOK["secret"], "webhook_headers": headers}
    assert "of-a-gateway" not in repr(job)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"s3": {"bucket_name": "b"}}, "s3.access_key_id is missing"),
        ({"s3": {**S3, "secret_access_key": ""}}, "s3.secret_access_key is missing"),
        ({"s3": {**S3, "prefix": "../up"}}, "s3.prefix must be a relative path"),
        ({"s3": {**S3, "connect_timeout": "60"}}, "s3.connect_timeout must be a number above 0 and at most 300"),
        ({"convert_output": {"format": "avif"}}, "convert_output.format must be one of webp, jpeg, png, not 'avif'."),
        ({"convert_output": "webp"}, "convert_output must be an object, not 'webp'."),
        ({"strip_metadata": "yes"}, "strip_metadata must be true or false, not 'yes'."),
        ({"webhook": {**WEBHOOK, "events": []}}, "webhook.events must be a list of one or more of job.started, "),
        ({"webhook": {**WEBHOOK, "events": ["job.failed", "job.done"]}}, "no event 'job.done'; there are job.started,"),
        ({"webhook": {**WEBHOOK, "events": [{}]}}, "webhook.events: there is no event an object; there are"),
        ({"webhook": {**WEBHOOK, "events": "job.failed"}}, "webhook.events must be a list of one or more of"),
        ({"webhook": {**WEBHOOK, "extra_params": {"k": "x" * 9_000}}}, "webhook.extra_params must be an object of at"),
        ({"webhook": {"url": "http://10.0.0.1/"}}, "webhook.url"),
        ({"s3": {**S3, "aws_bucket_name": "b"}}, "'s3.aws_bucket_name': it is called s3.bucket_name here."),
        ({"s3": {**S3, "acl": "private"}}, "Unknown field 's3.acl'; there are: "),
        ({"webhook": {**WEBHOOK, "auth": "u:p"}}, "Unknown field 'webhook.auth': it is called webhook.headers here."),
        ({"webhook": {**WEBHOOK, "method": "PUT"}}, "Unknown field 'webhook.method'; there are: "),
    ],
)
@pytest.mark.parametrize("path", ["/api/v2/jobs", "/workflows/tile"])
def test_what_cannot_be_done_is_refused(api: Api, path: str, fields: dict[str, Any], words: str) -> None:
    body = {"workflow": GRAPH} if path == "/api/v2/jobs" else {"parameters": {}}

    answer = api.post(path, {**body, **fields})

    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"]
    assert "secret-of-a-client" not in answer.text
