"""What the API accepts as URLs, cursors and names, without a server."""

from __future__ import annotations

import json
import pickle

import pytest

import core.errors
from api.http import errors
from api.http.error_shapes import COMFY_API, error_headers
from api.http.errors import status_of
from api.http.files import content_disposition
from api.schema import fields
from core.contracts.comfy_v2 import SHOWN, timestamp
from core.errors import ComfylineError, InvalidRequest
from core.outbound import check_url
from core.records.job import STATUSES
from core.records.output import Output

#: The words the contract's job object may use.
CONTRACT_STATUSES = {"queued", "running", "succeeded", "canceling", "canceled", "failed", "expired"}


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://example.com:8080/hook?x=1&y=%20",
        "HTTPS://Example.COM/",
        "https://xn--bcher-kva.example/",
        "http://[2001:db8::1]:80/",
        "http://exa_mple.com:18080/",
        "https://example.com/" + "a" * 2028,
    ],
)
def test_urls_that_name_an_address(url: str) -> None:
    assert check_url(url, "url") == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/",
        "http://",
        "http:///127.0.0.1/",
        "http:/127.0.0.1/",
        "http:127.0.0.1/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "ws://example.com/",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
        "http://user:pw@example.com/",
        "http://example.com@127.0.0.1:18080/",
        "http://127.0.0.1:18080#@example.com/",
        "https://example.com/#fragment",
        "https://example.com/#",
        "http://127.0.0.1:18080\\@example.com/",
        "http://127.0.0.1:18080\t/",
        "http://127.0.0.1:18080/\r\nX-Injected: 1",
        " http://127.0.0.1:18080/",
        "http://127.0.0.1:18080 /",
        "http://127.0.0.1:18080%00.example.com/",
        "http://127.0.0.1%2f/",
        "http://%31%32%37.0.0.1:18080/",
        "http://127\u30020\u30020\u30021:18080/",
        "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
        "http://[::ffff:127.0.0.1",
        "http://[fe80::1%25lo]/",
        "http://[v1.x]/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:-1/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:port/",
        "http://...",
        "http://.example.com/",
        "http://" + "a" * 300 + "/",
        "http://a." + "b" * 64 + ".com/",
        "https://example.com/" + "a" * 2029,
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^url"):
        check_url(url, "url")


@pytest.mark.parametrize(
    ("name", "content_type", "expected"),
    [
        ("a.png", "image/png", "inline; filename=\"a.png\"; filename*=UTF-8''a.png"),
        ('q"\r\n.png', "image/png", "inline; filename=\"q___.png\"; filename*=UTF-8''q%22%0D%0A.png"),
        ("日本.png", "image/png", "inline; filename=\"__.png\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.png"),
        ("x.svg", "image/svg+xml", "attachment; filename=\"x.svg\"; filename*=UTF-8''x.svg"),
        ("x.html", "text/html", "attachment; filename=\"x.html\"; filename*=UTF-8''x.html"),
    ],
)
def test_file_names_in_headers(name: str, content_type: str, expected: str) -> None:
    output = Output(
        id="a",
        job_id="j",
        node_id="1",
        name=name,
        kind="image",
        content_type=content_type,
    )

    assert content_disposition(output) == expected


def test_cursors_come_back() -> None:
    job_id = "00000000-0000-0000-0000-000000000000"

    cursor = fields.encode_cursor(1_700_000_000_000, job_id)

    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert fields.decode_cursor(cursor) == (1_700_000_000_000, job_id)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00.5z", 500),
        ("2026-01-31T12:00:00.1239+02:00", 1_769_853_600_123),
        ("2026-01-31 12:00:00-00:30", 1_769_862_600_000),
        # A plus sign that a client did not encode.
        ("2026-01-31T12:00:00 02:00", 1_769_853_600_000),
    ],
)
def test_times_of_filters(text: str, ms: int) -> None:
    assert fields.moment("created_after", text) == ms


def test_every_status_has_a_word_of_the_contract() -> None:
    assert set(SHOWN) == set(STATUSES)
    assert set(SHOWN.values()) == CONTRACT_STATUSES


def test_timestamps_have_an_offset_and_milliseconds() -> None:
    assert timestamp(1_700_000_000_007) == "2023-11-14T22:13:20.007Z"


def _every_error(kind: type[ComfylineError] = ComfylineError) -> list[type[ComfylineError]]:
    own = [kind] if kind.__module__.startswith(("core.errors.", errors.__name__)) else []
    return own + [found for child in kind.__subclasses__() for found in _every_error(child)]


@pytest.mark.parametrize("kind", _every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_an_envelope_and_survives_pickling(kind: type[ComfylineError]) -> None:
    error = kind("Something happened.")

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert 400 <= status_of(error) < 600
    body = COMFY_API.body(error)["error"]
    assert set(body) == {"code", "message", "details"}
    json.dumps(body)
    if status_of(error) == 500:
        assert "happened" not in body["message"], "what went wrong inside is for the log"
    # Of a limit only whoever refuses knows when there is room again.
    if status_of(error) in (429, 503) and not isinstance(error, core.errors.LimitReached):
        assert int(error_headers(error)["Retry-After"]) >= 1


def test_client_errors_are_4xx_and_transient_ones_can_be_repeated() -> None:
    for kind in _every_error(core.errors.RequestError):
        assert status_of(kind("x")) < 500
    for kind in _every_error(core.errors.TransientError):
        assert status_of(kind("x")) in (429, 503, 507)
