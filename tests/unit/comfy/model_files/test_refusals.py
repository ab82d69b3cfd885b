"""What is said of answers that are no file: by their status, their headers, and what an S3 server or a hub says."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pytest
import requests
from urllib3 import HTTPResponse

from comfy.model_files.refusals import check_answer
from core.errors import ModelRefused, ModelUnavailable

SHOWN = "s3://bucket/x.sft"


def answer(
    status: int, body: str = "", headers: Mapping[str, str] | None = None, *, url: str = "https://host/x", via: str = ""
) -> requests.Response:
    made = requests.Response()
    made.status_code, made.url = status, url
    made.headers.update(headers or {})
    made.raw = HTTPResponse(io.BytesIO(body.encode()), preload_content=False)
    if via:
        made.history = [answer(302, url=via)]
    return made


def s3(code: str, more: str = "") -> str:
    return f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>secret words</Message>{more}</Error>'


def check(found: requests.Response, *, allow_http: bool = False) -> None:
    check_answer(found, shown=SHOWN, allow_http=allow_http)


def refusal(found: requests.Response) -> str:
    with pytest.raises(ModelRefused) as caught:
        check(found)
    return caught.value.message


@pytest.mark.parametrize("status", [200, 206])
def test_a_file_is_let_through(status: int) -> None:
    check(answer(status, "bytes", {"Content-Type": "binary/octet-stream"}))
    check(answer(status))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int) -> None:
    with pytest.raises(ModelUnavailable, match=f"{SHOWN} answered {status}"):
        check(answer(status, s3("SlowDown")))


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("InvalidAccessKeyId", 403, "AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", 403, "AWS_PROFILE) are wrong."),
        ("ExpiredToken", 400, "have ended"),
        ("InvalidToken", 400, "are not valid"),
        ("AccessDenied", 403, "may not read it"),
        ("NoSuchBucket", 404, "COMFYLINE_MODELS_S3_ENDPOINT_URL"),
        ("NoSuchKey", 404, "no such object in the bucket"),
        ("RequestTimeTooSkewed", 403, "clock"),
    ],
)
def test_each_word_of_an_s3_server_has_its_line(code: str, status: int, words: str) -> None:
    said = refusal(answer(status, s3(code)))
    assert said.startswith(f"{SHOWN} answered {status} ({code}): ")
    assert words in said
    assert "secret" not in said


def test_a_word_that_nobody_knows_is_told_and_not_explained() -> None:
    assert refusal(answer(403, s3("Whatever"))) == f"{SHOWN} answered 403 (Whatever)."


@pytest.mark.parametrize(
    ("found", "where"),
    [
        (answer(400, s3("AuthorizationQueryParametersError", "<Region>eu-west-1</Region>")), "in the region eu-west-1"),
        (answer(400, s3("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")), "in the region eu-west-1"),
        (answer(301, s3("PermanentRedirect")), "in another region"),
        (
            answer(301, s3("PermanentRedirect"), {"x-amz-bucket-region": "eu-west-1", "Location": "/"}),
            "in the region eu-west-1",
        ),
        (answer(301, s3("PermanentRedirect"), {"x-amz-bucket-region": "<b>", "Location": "/"}), "in another region"),
    ],
)
def test_a_bucket_of_another_region_names_the_setting(found: requests.Response, where: str) -> None:
    assert f"the bucket is {where}; set AWS_DEFAULT_REGION of this host." in refusal(found)


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("GatedRepo", 403, "an account that has accepted its terms"),
        ("RepoNotFound", 401, "no such repository, or the token may not see it"),
        ("RevisionNotFound", 404, "no such revision"),
        ("EntryNotFound", 404, "no such file at that revision"),
    ],
)
def test_each_word_of_a_hub_has_its_line(code: str, status: int, words: str) -> None:
    assert words in refusal(answer(status, "any", {"X-Error-Code": code}))


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "a token"), (403, "a token"), (404, "no such file"), (410, "no such file"), (418, "418")],
)
def test_any_other_server_is_judged_by_its_status(status: int, words: str) -> None:
    assert words in refusal(answer(status, "<html>"))


@pytest.mark.parametrize("kind", ["text/html", "TEXT/HTML; charset=utf-8", "application/xhtml+xml"])
def test_a_page_is_no_file(kind: str) -> None:
    assert "a web page" in refusal(answer(200, "<html>", {"Content-Type": kind}))


def test_what_leads_on_without_tls_is_refused_unless_it_may() -> None:
    led = answer(200, "bytes", url="http://cdn/x", via="https://host/x")
    assert "COMFYLINE_MODELS_ALLOW_HTTP" in refusal(led)
    check(led, allow_http=True)
