"""S3 blocks: which bucket and whose credentials, nothing of two blocks mixed, and keys that stay where they belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.buckets.block import S3Block, environment_credentials, parse_s3
from core.buckets.put_urls import PutUrls, parse_put_urls
from core.errors import ConfigurationError, InvalidRequest
from core.outbound import UNRESTRICTED
from core.records.bucket_target import ENVIRONMENT, REQUEST, BucketTarget, Credentials
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
    assert found.target == BucketTarget(
        endpoint_url="http://10.0.0.5:9000",
        bucket_name="operators-bucket",
        region="eu-north-1",
        prefix="fleet",
        origin=ENVIRONMENT,
    )


def test_a_requests_block_takes_nothing_but_the_region_from_the_environment(equipped: Settings) -> None:
    found = parsed(OWN, equipped)

    assert found.target == BucketTarget(
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

    assert found.target == BucketTarget(
        endpoint_url="https://s3.example.com/base",
        bucket_name="own-bucket",
        region="auto",
        prefix="a/b",
        connect_timeout_s=2.0,
        connect_attempts=5,
    )
    assert isinstance(found.credentials, Credentials)
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


def test_what_a_job_keeps_holds_no_secret_and_comes_back(bare: Settings) -> None:
    found = parsed({**OWN, "session_token": "own-token"}, bare)
    assert found.credentials is not None

    kept = json.dumps(found.target.to_json())

    assert BucketTarget.from_json(json.loads(kept)) == found.target
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


def test_a_bucket_of_ones_own_may_have_keys_and_links_of_its_own(bare: Settings) -> None:
    found = parsed(
        {
            **OWN,
            "key_template": "{date}/{filename}",
            "public_url": "https://cdn.example.com/pictures/",
            "addressing": "virtual",
        },
        bare,
    )

    assert found.target.key_template == "{date}/{filename}"
    assert found.target.public_url == "https://cdn.example.com/pictures"
    assert found.target.addressing == "virtual"
    assert BucketTarget.from_json(json.loads(json.dumps(found.target.to_json()))) == found.target


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key_template", "{prefix}"),
        ("key_template", "../{filename}"),
        ("public_url", "ftp://cdn.example.com"),
        ("public_url", "https://cdn.example.com/?x=1"),
        ("addressing", "by-name"),
    ],
)
def test_such_wishes_are_checked(field: str, value: str, bare: Settings) -> None:
    with pytest.raises(InvalidRequest, match=rf"^s3\.{field} must"):
        parse_s3({**OWN, field: value}, bare)


@pytest.mark.parametrize("field", ["key_template", "public_url", "addressing"])
def test_the_operators_bucket_has_the_operators_keys_and_links(field: str, tmp_path: Path) -> None:
    its_own = {"s3_key_template": "{job_id}/{ordinal}", "s3_public_url": "https://cdn/", "s3_addressing": "virtual"}
    settings = make_settings(tmp_path, **OPERATORS, **its_own)

    target = parsed(None, settings).target
    assert (target.key_template, target.public_url, target.addressing) == (
        "{job_id}/{ordinal}",
        "https://cdn",
        "virtual",
    )
    wishes = {"key_template": "{filename}", "public_url": "https://evil.example", "addressing": "path"}
    with pytest.raises(InvalidRequest, match=rf"^s3\.{field} is for a bucket of your own"):
        parse_s3({field: wishes[field]}, settings)


SIGNED = ["https://bucket.example/a?X-Amz-Signature=hush1", "https://bucket.example/b?X-Amz-Signature=hush2"]


def test_urls_to_put_to_are_kept_apart_from_what_a_job_shows(equipped: Settings) -> None:
    found = parsed({"put_urls": SIGNED, "public_url": "https://cdn.example", "connect_timeout": 5}, equipped)

    assert isinstance(found.credentials, PutUrls)
    assert (found.target.origin, found.target.connect_timeout_s) == ("put_urls", 5.0)
    assert "hush" not in json.dumps(found.target.to_json()) + repr(found)
    assert PutUrls.from_json(json.loads(json.dumps(found.credentials.to_json()))) == found.credentials


def test_which_url_is_for_which_file() -> None:
    in_order = parse_put_urls(SIGNED, UNRESTRICTED)
    by_name = parse_put_urls({"b.png": SIGNED[0], "*": SIGNED[1]}, UNRESTRICTED)

    assert in_order.for_files(["x", "y", "z"]) == [*SIGNED, None]
    assert by_name.for_files(["a.png", "b.png", "c.png"]) == [SIGNED[1], SIGNED[0], None]
    assert in_order.for_files([]) == []


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"put_urls": "https://a.example/"}, "must be a list of URLs"),
        ({"put_urls": [7]}, "must hold nothing but URLs"),
        ({"put_urls": ["https://a.example/"] * 2}, "names a URL twice"),
        ({"put_urls": ["https://a.example/", "ftp://a.example/"]}, "must start with http"),
        ({"put_urls": {"*": "http://169.254.169.254/"}}, "private address"),
        ({"put_urls": [f"https://a.example/{number}" for number in range(1001)]}, "at most 1000"),
        ({"put_urls": SIGNED, **OWN}, "stands in place of s3.access_key_id"),
        ({"put_urls": SIGNED, "prefix": "a"}, "stands in place of s3.prefix"),
        ({"put_urls": SIGNED, "key_template": "{filename}"}, "stands in place of s3.key_template"),
    ],
)
def test_urls_to_put_to_that_are_refused(block: Any, words: str, bare: Settings) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        parse_s3(block, bare)
    assert "hush" not in str(caught.value)
