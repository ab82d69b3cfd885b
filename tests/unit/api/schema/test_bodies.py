"""Request bodies against their models: what is taken, and in which words the rest is refused."""

from __future__ import annotations

from typing import Any

import pytest

from api.http.errors import BadParameter, InvalidMetadata
from api.schema.batch_bodies import BatchBody, RetryBody
from api.schema.blocks import S3Body, WebhookBody
from api.schema.bodies import (
    CustomWorkflowBody,
    GenerateBody,
    GenerateInput,
    PromptBody,
    SubmitBody,
    TemplateBody,
)
from api.schema.bulk_bodies import BulkBody, RerunBody
from api.schema.key_bodies import KeyBody, RotateBody
from api.schema.tenant_bodies import TenantBody, TenantChangesBody
from api.schema.validation import Body, read, read_enveloped
from core.errors import ComfylineError, InvalidRequest, InvalidWorkflow

GRAPH = {"1": {"class_type": "SaveImage", "inputs": {}}}
SECRET = "do-not-repeat-me"
KEY = {"name": "a", "scopes": ["read"]}
HOOK = {"url": "https://a/"}


@pytest.mark.parametrize(
    ("model", "body", "kind", "words"),
    [
        (SubmitBody, [], InvalidRequest, r"The body must be an object\.$"),
        (GenerateBody, 3, InvalidRequest, "The body must be an object with input."),
        (
            SubmitBody,
            {"priority": 1.0},
            InvalidRequest,
            "priority must be an integer from -1000000 to 1000000, not 1.0.",
        ),
        (SubmitBody, {"priority": True}, InvalidRequest, "priority must be an integer from .*, not true."),
        (SubmitBody, {"timeout": "9"}, InvalidRequest, "timeout must be a number above 0 and at most 604800, not '9'."),
        (SubmitBody, {"timeout": 604801}, InvalidRequest, "timeout must be .* at most 604800, not 604801."),
        (SubmitBody, {"strip_metadata": 1}, InvalidRequest, "strip_metadata must be true or false, not 1."),
        (SubmitBody, {"webhook_url": "https://x"}, InvalidWorkflow, "The field webhook_url is reserved"),
        (SubmitBody, {"inputs": 0}, InvalidWorkflow, "The field inputs is reserved"),
        (SubmitBody, {"metadata": {"a": 1}}, InvalidMetadata, "the value of a must be a string"),
        (SubmitBody, {"extra_data": {"x": 1}}, BadParameter, "extra_data may hold api_key_comfy_org"),
        (SubmitBody, {"s3": {"prefix": 1}}, InvalidRequest, "s3.prefix must be text, not 1."),
        (SubmitBody, {"s3": [1]}, InvalidRequest, "s3 must be an object, not a list."),
        (TemplateBody, {}, InvalidRequest, "parameters is missing: it must be an object."),
        (TemplateBody, {"parameters": {}, "x": 1}, InvalidRequest, "Unknown field 'x'; there are: parameters, "),
        (
            TemplateBody,
            {"parameters": {}, "webhook": {}},
            InvalidRequest,
            "webhook.url is missing: it must be text of at",
        ),
        (GenerateBody, {"input": None}, InvalidRequest, "input must be an object, not null."),
        (GenerateInput, {"modifier": 1}, InvalidRequest, "modifier must be text, not 1."),
        (GenerateInput, {"modifier": "x" * 99, "timeout": 0}, InvalidRequest, "timeout must be"),
        (GenerateInput, {"modifier": "a", "request_id": ".."}, InvalidRequest, "request_id must be 1 to 128 of .*'..'"),
        (BatchBody, {"jobs": [{}] * 10_001}, InvalidRequest, "jobs must be a list of at most 10000 .* list of 10001"),
        (KeyBody, {"name": "a", "scopes": []}, InvalidRequest, "scopes must be a list of 1 to 100 .* an empty list"),
        (KeyBody, {**KEY, "templates": []}, InvalidRequest, "templates must be a list of 1 to 100 .* an empty list"),
        (KeyBody, {**KEY, "name": "a\0"}, InvalidRequest, "name must be 1 to 64 characters, and none that controls"),
        (KeyBody, {**KEY, "name": ""}, InvalidRequest, "name must be 1 to 64 characters"),
        (KeyBody, {**KEY, "templates": ["\0"]}, InvalidRequest, "templates.0 must be 1 to 64 characters"),
        (KeyBody, {**KEY, "tenant": "a\0"}, InvalidRequest, "tenant must be text of at most 63 .* that matches"),
        (KeyBody, {**KEY, "scope": ["read"]}, InvalidRequest, "Unknown field 'scope': it is called scopes here"),
        (
            KeyBody,
            {**KEY, "max_priorty": 1},
            InvalidRequest,
            "'max_priorty': most like it is max_priority; there are: ",
        ),
        (
            RotateBody,
            {"keeps_s": 1},
            InvalidRequest,
            "Unknown field 'keeps_s': most like it is keep_s; there are: keep_s",
        ),
        (TenantBody, {"name": "A b"}, InvalidRequest, "name must be text of at most 63 .* matches .*, not 'A b'"),
        (TenantBody, {"name": "a", "wieght": 2}, InvalidRequest, "Unknown field 'wieght': most like it is weight"),
        (TenantChangesBody, {"max_waitng": None}, InvalidRequest, "Unknown field 'max_waitng': most like it is max_w"),
        (
            SubmitBody,
            {"webhook": {**HOOK, "events": []}},
            InvalidRequest,
            "webhook.events must be .*, not an empty list",
        ),
        (
            BatchBody,
            {"webhook": {**HOOK, "events": []}},
            InvalidRequest,
            "webhook.events must be a list of one or more of .*, not an empty list",
        ),
        (RetryBody, {"statuses": []}, InvalidRequest, "statuses must be a list that is not empty, not an empty list"),
        (BulkBody, {"lable": "x"}, InvalidRequest, "Unknown field 'lable': most like it is label"),
        (BulkBody, {"statuses": ["failed"]}, InvalidRequest, "Unknown field 'statuses': it is called status here"),
        (RerunBody, {"same_sede": True}, InvalidRequest, "Unknown field 'same_sede': most like it is same_seed"),
        (CustomWorkflowBody, {"workflow": "x"}, InvalidRequest, "workflow must be an object, not 'x'."),
        (PromptBody, {"prompt": 3}, InvalidRequest, "width is missing: it must be an integer of at least 1."),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_allowed(
    model: type[Body], body: Any, kind: type[ComfylineError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        read(model, body)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "block",
    [
        {"s3": {"secret_access_key": [SECRET]}},
        {"s3": {"access_key_id": {"a": SECRET}, "session_token": SECRET, "bucket_name": 5}},
        {"webhook": {"url": "https://a/", "secret": SECRET + "\n"}},
        {"webhook": {"url": "https://a/", "secret": SECRET * 99}},
        {"webhook": {"url": "https://a/", "secret": f"whsec_{SECRET}"}},
        {"webhook": {"url": "https://a/", "secret": [SECRET, SECRET, SECRET]}},
        {"webhook": {"url": "https://a/", "secret": [SECRET, ""]}},
        {"webhook": {"url": "https://a/", "secret": [SECRET, 5]}},
        {"webhook": {"url": "https://a/", "secret": {SECRET: SECRET}}},
        {"webhook": {"url": "https://a/", "secret": []}},
        {"webhook": {"url": "https://a/", "headers": {"Authorization": SECRET + "\r\nX: y"}}},
        {"webhook": {"url": "https://a/", "headers": {"Host": SECRET}}},
        {"webhook": {"url": "https://a/", "headers": SECRET}},
        {"webhook": {"url": "https://a/", "token": SECRET}},
        {"s3": {"awsSecretAccessKey": SECRET}},
        {"s3": {"what": SECRET}},
        {"extra_data": {"api_key_comfy_org": [SECRET]}},
        {"extra_data": SECRET},
        {"s3": [SECRET]},
        {"webhook": SECRET},
    ],
)
def test_no_message_repeats_a_secret(block: dict[str, Any]) -> None:
    with pytest.raises((InvalidRequest, BadParameter)) as caught:
        read(TemplateBody, {"parameters": {}, **block})
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("blank", [None, ""])
def test_a_blank_secret_is_none(blank: str | None) -> None:
    body = read(SubmitBody, {"webhook": {"url": "https://a/", "secret": blank}})

    assert body.webhook is not None
    assert body.webhook.secret is None


def test_a_graph_is_neither_checked_nor_copied() -> None:
    graph: dict[str, Any] = {"1": 5}

    assert read(SubmitBody, {"workflow": graph}).workflow is graph
    assert read(CustomWorkflowBody, {"workflow": graph}).workflow is graph
    assert read(GenerateInput, {"workflow_json": graph}).workflow_json is graph


@pytest.mark.parametrize("auth_data", [{}, {"auth_data": {"signature": "s", "cost": 400}}, {"auth_data": None}])
def test_an_envelope_is_taken_off(auth_data: dict[str, Any]) -> None:
    body = {"custom_fields": {"steps": 3}, "workflow": GRAPH}

    assert read_enveloped(CustomWorkflowBody, {**auth_data, "payload": body}) == read(CustomWorkflowBody, body)


def test_a_body_with_a_payload_beside_its_fields_is_no_envelope() -> None:
    prompt = {"prompt": "a", "width": 8, "height": 8, "steps": 1, "seed": 0}

    read_body = read_enveloped(PromptBody, {**prompt, "payload": {"prompt": "b"}})

    assert read_body.model_dump(exclude_unset=True) == {**prompt, "payload": {"prompt": "b"}}
    with pytest.raises(InvalidRequest, match=r"payload.input is missing"):
        read_enveloped(GenerateBody, {"payload": {}})


def test_a_prompt_keeps_names_that_are_not_its_own() -> None:
    values = {"prompt": 'a "quote"', "width": 8, "height": 8, "steps": 1, "seed": 2**64 - 1, "cfg": 7.5}

    assert read(PromptBody, values).model_dump(exclude_unset=True) == values


@pytest.mark.parametrize(
    ("block", "is_blank"),
    [
        ({}, True),
        (
            {"access_key_id": "", "bucket_name": "  ", "region": None, "connect_timeout": 60, "connect_attempts": 3},
            True,
        ),
        ({"prefix": "a"}, False),
        ({"bucket_name": "b"}, False),
    ],
)
def test_a_block_of_blanks_means_no_bucket(block: dict[str, Any], is_blank: bool) -> None:
    assert read(S3Body, block).is_blank is is_blank


BUCKET = {"access_key_id": "k", "secret_access_key": "s", "bucket_name": "pics"}


@pytest.mark.parametrize(
    ("model", "body", "words"),
    [
        (
            SubmitBody,
            {"s3": {"accessKeyId": "k"}},
            "Unknown field 's3.accessKeyId': it is called s3.access_key_id here.",
        ),
        (SubmitBody, {"s3": {"aws_access_key_id": "k"}}, "'s3.aws_access_key_id': it is called s3.access_key_id here"),
        (SubmitBody, {"s3": {"AWS_SECRET_ACCESS_KEY": "k"}}, "it is called s3.secret_access_key here"),
        (
            SubmitBody,
            {"s3": {"accessKeyId": "k", "secretAccessKey": "s", "bucket": "pics", "endpoint": "http://x"}},
            (
                "s3.bucket, s3.endpoint: they are called s3.access_key_id, s3.secret_access_key, s3.bucket_name, "
                "s3.endpoint_url"
            ),
        ),
        (SubmitBody, {"s3": {"bucket": "k"}}, "it is called s3.bucket_name here"),
        (SubmitBody, {"s3": {"endpoint": "k"}}, "it is called s3.endpoint_url here"),
        (SubmitBody, {"s3": {**BUCKET, "acl": "public"}}, "Unknown field 's3.acl'; there are: access_key_id, "),
        (SubmitBody, {"webhook": {"uri": "https://a/"}}, "'webhook.uri': it is called webhook.url here"),
        (SubmitBody, {"webhook": {**HOOK, "method": "PUT"}}, "Unknown field 'webhook.method'; there are: url, events"),
        (SubmitBody, {"webhook": {**HOOK, "extraParams": {"a": 1}}}, "it is called webhook.extra_params here"),
        (SubmitBody, {"convert_output": {"type": "webp"}}, "it is called convert_output.format here"),
        (SubmitBody, {"convert_output": {"format": "png", "x": 1}}, "Unknown field 'convert_output.x'; there are: "),
        (SubmitBody, {"aws_bucket_name": "b"}, "'aws_bucket_name': it is called s3.bucket_name here"),
        (TemplateBody, {"parameters": {}, "convert": {}, "s3Config": {"a": 1}}, "it is called s3 here"),
        (
            GenerateBody,
            {"input": {"workflow_json": GRAPH, "s3": {"bucketName": "b"}}},
            "'input.s3.bucketName': it is called input.s3.bucket_name here",
        ),
        (
            GenerateBody,
            {"input": {"workflow_json": GRAPH, "aws_access_key_id": "k", "webhook_url": ""}},
            "'input.aws_access_key_id': it is called input.s3.access_key_id here",
        ),
        (
            GenerateBody,
            {"input": {"workflow_json": GRAPH}, "webhook": HOOK},
            "'webhook': it is called input.webhook here",
        ),
        (CustomWorkflowBody, {"workflow": GRAPH, "s3": {"bucket": "b"}}, "it is called s3.bucket_name here"),
        # Beside the blocks the same names would be lost as well.
        (SubmitBody, {"S3": BUCKET}, "'S3': it is called s3 here"),
        (SubmitBody, {"WEBHOOK": HOOK}, "'WEBHOOK': it is called webhook here"),
        (SubmitBody, {"webhookUrl": "https://a/"}, "'webhookUrl': it is called webhook.url here"),
        (SubmitBody, {"webhook_v2": "https://a/"}, "it is called webhook here"),
        (SubmitBody, {"callback_url": "https://a/"}, "it is called webhook.url here"),
        (SubmitBody, {"webhook_secret": "x"}, "it is called webhook.secret here"),
        (SubmitBody, {"S3_BUCKET_NAME": "b"}, "it is called s3.bucket_name here"),
        (SubmitBody, {"bucket": "b"}, "it is called s3.bucket_name here"),
        (SubmitBody, {"s3_access_key_id": "k"}, "it is called s3.access_key_id here"),
        (SubmitBody, {"Priority": 5}, "'Priority': it is called priority here"),
        (CustomWorkflowBody, {"workflow": GRAPH, "webhook_url": "https://a/"}, "it is called webhook.url here"),
        (GenerateBody, {"input": {"workflow_json": GRAPH, "Webhook": HOOK}}, "it is called input.webhook here"),
        (GenerateBody, {"input": {"workflow_json": GRAPH}, "S3": BUCKET}, "'S3': it is called input.s3 here"),
        (GenerateBody, {"input": {"workflow_json": GRAPH, "s3": {"accessId": "k"}}}, "input.s3.access_key_id here"),
    ],
)
def test_what_a_block_does_not_know_is_refused_by_its_path(model: type[Body], body: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(model, body)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (SubmitBody, {"s3": {"aws_access_key_id": "", "acl": None}, "webhook": {**HOOK, "auth": {}}}),
        (SubmitBody, {"anything": 1, "client_id": "x", "aws_bucket_name": ""}),
        (GenerateBody, {"input": {"workflow_json": GRAPH, "handler": "RawWorkflow", "webhook_url": ""}, "x": 1}),
        (GenerateBody, {"auth_data": {"s3": {"a": 1}}, "payload": {"input": {"workflow_json": GRAPH}}}),
    ],
)
def test_what_is_blank_or_beside_the_blocks_is_ignored(model: type[Body], body: Any) -> None:
    read_enveloped(model, body)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic dTpw"},
        {"X-Api-Key": "k" * 4096, "X-NameOwner": "a b\tc"},
        {f"X-{number}": "v" for number in range(20)},
    ],
)
def test_headers_of_a_webhook_are_kept(headers: dict[str, str]) -> None:
    assert read(WebhookBody, {**HOOK, "headers": headers}).headers == headers


@pytest.mark.parametrize("blank", [None, {}])
def test_no_headers_are_none(blank: Any) -> None:
    assert read(WebhookBody, {**HOOK, "headers": blank}).headers is None


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ("Authorization: x", "an object of at most 20 header names"),
        (["a"], "an object of at most 20 header names"),
        ({f"X-{number}": "v" for number in range(21)}, "an object of at most 20 header names"),
        ({"": "v"}, "header names"),
        ({"X Y": "v"}, "header names"),
        ({"X:": "v"}, "header names"),
        ({"X\r\nY": "v"}, "header names"),
        ({"Xé": "v"}, "header names"),
        ({"X-A": "v", "x-a": "w"}, "each of them once"),
        *[
            ({name: "v"}, f"{name.lower()} is set by this server")
            for name in (
                "Host",
                "Connection",
                "Keep-Alive",
                "Proxy-Authorization",
                "TE",
                "Trailer",
                "Transfer-Encoding",
                "Upgrade",
                "Content-Length",
                "Content-Type",
                "Content-Encoding",
                "Webhook-Id",
                "webhook-timestamp",
                "webhook-signature",
                "X-Webhook-Signature",
                "X-Webhook-Event",
                "X-Webhook-Sequence",
                "User-Agent",
            )
        ],
        ({"X-A": 5}, "that of X-A has to be text"),
        ({"X-A": ""}, "that of X-A has to be text"),
        ({"X-A": " v"}, "that of X-A has to be text"),
        ({"X-A": "v\nX-B: w"}, "that of X-A has to be text"),
        ({"X-A": "v\r"}, "that of X-A has to be text"),
        ({"X-A": "v\0"}, "that of X-A has to be text"),
        ({"X-A": "é"}, "that of X-A has to be text"),
        ({"X-A": "v" * 4097}, "that of X-A has to be text"),
        ({"X-A": "v" * 4096, "X-B": "v" * 4096}, "at most 8192 bytes together"),
    ],
)
def test_headers_that_are_refused(headers: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(WebhookBody, {**HOOK, "headers": headers})
    assert caught.value.message.startswith("headers must be ")
    assert words in caught.value.message
