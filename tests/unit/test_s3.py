"""S3 blocks: which bucket and whose credentials, nothing of two blocks mixed, and keys that stay where they belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigurationError, InvalidRequest
from core.s3 import (
    ENVIRONMENT,
    REQUEST,
    Credentials,
    S3Block,
    Target,
    environment_credentials,
    is_safe_prefix,
    key_of,
    parse_s3,
)
from core.settings import Settings, load_settings
from tests.services import make_settings

OWN = {"access_key_id": "own-key", "secret_access_key": "own-secret", "bucket_name": "own-bucket"}
OPERATORS = {
    "s3_access_key_id": "operators-key",
    "s3_secret_access_key": "operators-secret",
    "s3_session_token": "operators-token",
    "s3_bucket_name": "operators-bucket",
    "s3_endpoint_url": "http://10.0.0.5:9000",
    "s3_region": "eu-north-1",
    "s3_prefix": "fleet",
}
BLANK = {"access_key_id": "", "secret_access_key": None, "endpoint_url": "  ", "bucket_name": "", "region": ""}


@pytest.fixture
def bare(tmp_path: Path) -> Settings:
    """A server without a bucket."""
    return make_settings(tmp_path)


@pytest.fixture
def equipped(tmp_path: Path) -> Settings:
    """A server with a bucket."""
    return make_settings(tmp_path, **OPERATORS)


def parsed(block: Any, settings: Settings) -> S3Block:
    found = parse_s3(block, settings)
    assert found is not None
    return found


@pytest.mark.parametrize("block", [None, {}, BLANK, {**BLANK, "connect_timeout": 60, "connect_attempts": 3}])
def test_no_block_is_the_environments_or_none(block: Any, bare: Settings, equipped: Settings) -> None:
    assert parse_s3(block, bare) is None

    found = parsed(block, equipped)
    assert found.credentials is None
    assert found.target == Target(
        endpoint_url="http://10.0.0.5:9000",
        bucket_name="operators-bucket",
        region="eu-north-1",
        prefix="fleet",
        origin=ENVIRONMENT,
    )


def test_a_requests_block_takes_nothing_but_the_region_from_the_environment(equipped: Settings) -> None:
    found = parsed(OWN, equipped)

    assert found.target == Target(
        endpoint_url=None, bucket_name="own-bucket", region="eu-north-1", prefix="", origin=REQUEST
    )
    assert found.credentials == Credentials(access_key_id="own-key", secret_access_key="own-secret", session_token=None)


def test_a_whole_block_of_a_request(bare: Settings) -> None:
    found = parsed(
        {
            **OWN,
            "endpoint_url": "https://s3.example.com/base",
            "region": "auto",
            "session_token": "own-token",
            "prefix": "a/b/",
            "connect_timeout": 2,
            "connect_attempts": 5,
        },
        bare,
    )

    assert found.target == Target(
        endpoint_url="https://s3.example.com/base",
        bucket_name="own-bucket",
        region="auto",
        prefix="a/b",
        connect_timeout_s=2.0,
        connect_attempts=5,
    )
    assert found.credentials is not None
    assert found.credentials.session_token == "own-token"


def test_a_folder_of_the_environments_bucket(equipped: Settings) -> None:
    found = parsed({**BLANK, "prefix": "orders/7", "region": "us-west-2", "connect_attempts": 1}, equipped)

    assert found.credentials is None
    assert found.target.prefix == "fleet/orders/7"
    assert (found.target.bucket_name, found.target.region) == ("operators-bucket", "eu-north-1")
    assert found.target.connect_attempts == 1


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ({"access_key_id": "k"}, "secret_access_key"),
        ({"secret_access_key": "s"}, "access_key_id"),
        ({"session_token": "t"}, "access_key_id"),
        ({"bucket_name": "elsewhere"}, "access_key_id"),
        ({"endpoint_url": "https://evil.example"}, "access_key_id"),
        ({"endpoint_url": "https://evil.example", "bucket_name": "operators-bucket"}, "access_key_id"),
        ({**OWN, "secret_access_key": ""}, "secret_access_key"),
        ({**OWN, "secret_access_key": "   "}, "secret_access_key"),
        ({**OWN, "bucket_name": None}, "bucket_name"),
    ],
)
def test_half_a_block_is_never_completed(block: Any, field: str, bare: Settings, equipped: Settings) -> None:
    for settings in (bare, equipped):
        with pytest.raises(InvalidRequest, match=rf"^s3\.{field} is missing"):
            parse_s3(block, settings)


@pytest.mark.parametrize("block", [{"prefix": "a"}, {"region": "us-east-1"}])
def test_a_wish_that_needs_the_environments_bucket_is_refused_without_one(block: Any, bare: Settings) -> None:
    with pytest.raises(InvalidRequest, match=r"^s3\.access_key_id is missing"):
        parse_s3(block, bare)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("access_key_id", 7),
        ("access_key_id", "a b"),
        ("secret_access_key", "a\nX-Header: b"),
        ("session_token", "é"),
        ("bucket_name", "ab"),
        ("bucket_name", "a/b/c"),
        ("bucket_name", "a..b"),
        ("bucket_name", "arn:aws:s3:::bucket"),
        ("region", "evil.example/#"),
        ("endpoint_url", "ftp://h"),
        ("endpoint_url", "https://user@h"),
        ("endpoint_url", "https://h/?x=1"),
        ("endpoint_url", "http://my_server:9000"),
        ("endpoint_url", "http://[::1"),
        ("endpoint_url", "http://169.254.169.254"),
        ("endpoint_url", ["https://h"]),
        ("prefix", {}),
        ("prefix", "../a"),
        ("connect_timeout", 0),
        ("connect_timeout", 301),
        ("connect_timeout", "60"),
        ("connect_timeout", True),
        ("connect_timeout", float("nan")),
        ("connect_timeout", 10**400),
        ("connect_attempts", 0),
        ("connect_attempts", 11),
        ("connect_attempts", 1.5),
        ("connect_attempts", True),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(field: str, value: Any, bare: Settings) -> None:
    with pytest.raises(InvalidRequest, match=rf"^s3\.{field}\b"):
        parse_s3({**OWN, field: value}, bare)


@pytest.mark.parametrize("block", [[], "s3", 1, True])
def test_what_is_no_object_is_refused(block: Any, bare: Settings) -> None:
    with pytest.raises(InvalidRequest, match=r"^s3 must be an object"):
        parse_s3(block, bare)


@pytest.mark.parametrize("prefix", ["", "a", "a/b", "a/b/", "a b", "100%", "Zürich/日本", "a..b", ".hidden", "x" * 512])
def test_prefixes_that_name_a_folder(prefix: str) -> None:
    assert is_safe_prefix(prefix)


@pytest.mark.parametrize(
    "prefix",
    [
        "..",
        "a/../b",
        "a/./b",
        "/a",
        "~/a",
        "a//b",
        "a\\..\\b",
        "%2e%2e/a",
        "a/%2E./b",
        "a%2f..%2fb",
        "%252e%252e%252f",
        "%25252e%25252e/",
        "%2fetc",
        "%5c..",
        "a%00",
        "%c0%ae%c0%ae/a",
        "%u002e%u002e/a",
        "\uff0e\uff0e/a",
        "\u2024\u2024/a",
        "a\x00b",
        "a\nb",
        "a\u2028b",
        "\ud800",
        "x" * 513,
        "ü" * 257,
    ],
)
def test_prefixes_that_could_be_read_as_another_folder(prefix: str) -> None:
    assert not is_safe_prefix(prefix)


@pytest.mark.parametrize(("prefix", "key"), [("", "job/a.png"), ("x/y", "x/y/job/a.png")])
def test_keys(prefix: str, key: str) -> None:
    target = Target(endpoint_url=None, bucket_name="bucket", region=None, prefix=prefix)

    assert key_of(target, "job", "a.png") == key


def test_what_a_job_keeps_holds_no_secret_and_comes_back(bare: Settings) -> None:
    found = parsed({**OWN, "session_token": "own-token"}, bare)
    assert found.credentials is not None

    kept = json.dumps(found.target.to_json())

    assert Target.from_json(json.loads(kept)) == found.target
    assert Credentials.from_json(json.loads(json.dumps(found.credentials.to_json()))) == found.credentials
    for secret in ("own-key", "own-secret", "own-token"):
        assert secret not in kept + repr(found)


def test_the_environments_credentials(bare: Settings, equipped: Settings) -> None:
    assert environment_credentials(bare) is None
    assert environment_credentials(equipped) == Credentials(
        access_key_id="operators-key", secret_access_key="operators-secret", session_token="operators-token"
    )
    assert "operators-secret" not in repr(equipped)


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"S3_ACCESS_KEY_ID": "key"}, "S3_SECRET_ACCESS_KEY, S3_BUCKET_NAME"),
        ({"S3_ACCESS_KEY_ID": "key", "S3_SECRET_ACCESS_KEY": "hush"}, "S3_BUCKET_NAME"),
        ({"S3_BUCKET_NAME": "bucket", "S3_SECRET_ACCESS_KEY": "hush"}, "S3_ACCESS_KEY_ID"),
        ({"S3_ENDPOINT_URL": "http://h"}, "S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_BUCKET_NAME"),
        ({"S3_PREFIX": "a"}, "S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_BUCKET_NAME"),
    ],
)
def test_half_a_block_in_the_environment_stops_the_start(
    variables: dict[str, str], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=rf"^{missing} missing") as caught:
        load_settings()

    assert "hush" not in str(caught.value)


def test_a_region_alone_is_a_default_for_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_REGION", "eu-north-1")

    assert parsed(OWN, load_settings()).target.region == "eu-north-1"


def test_names_of_the_generate_contract_keep_their_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OPERATORS.items():
        monkeypatch.setenv(name.upper(), value)

    settings = load_settings()

    assert parsed(None, settings).target.bucket_name == "operators-bucket"
    assert environment_credentials(settings) is not None
