"""Where a source is got: its URL, its token, what this host's settings refuse. Nothing is asked for here."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from comfy.model_files.remote import Address
from core.errors import ConfigurationError, ModelRefused
from core.records.model_file import ModelFile
from tasks.models.addresses import address_of
from tests.services import make_settings

SHA = "a" * 64


def address(
    tmp_path: Path, source: str, *, path: str = "checkpoints/x.sft", token: str | None = None, **how: Any
) -> Address:
    entry = ModelFile(path=path, source=source, sha256=SHA, token=token)
    return address_of(entry, make_settings(tmp_path, **how))


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


def test_a_url_is_its_own_address(tmp_path: Path) -> None:
    found = address(tmp_path, "https://a.example/x")
    assert (found.url(), found.shown, found.token, found.allow_http) == ("https://a.example/x",) * 2 + (None, False)


def test_a_file_of_a_hub_is_below_the_hubs_address(tmp_path: Path) -> None:
    found = address(tmp_path, "hf://o/n@refs/x.sft", token="hub", models_tokens="hub=t0ken")
    assert found.url() == "https://huggingface.co/o/n/resolve/refs/x.sft"
    assert (found.token, found.shown) == ("t0ken", "hf://o/n@refs/x.sft")
    assert "t0ken" not in repr(found)
    own = address(tmp_path, "hf://o/n@main/a b.sft".replace(" ", "%20"), models_hub_url="http://hub.lan/")
    assert own.url() == "http://hub.lan/o/n/resolve/main/a%2520b.sft"
    assert own.allow_http, "who names such a hub means it"


def test_a_token_that_was_entered_counts_where_the_host_has_none(tmp_path: Path) -> None:
    entry = ModelFile(path="checkpoints/x.sft", source="https://a.example/x", sha256=SHA, token="hub")
    entered = {"hub": "entered"}.get
    assert address_of(entry, make_settings(tmp_path), entered).token == "entered"
    assert address_of(entry, make_settings(tmp_path, models_tokens="hub=own"), entered).token == "own"

    def sealed_otherwise(_name: str) -> str:
        raise ConfigurationError("A sealed secret does not open.")

    with pytest.raises(ModelRefused, match="sealed with another COMFYLINE_SECRET_KEY: enter it again"):
        address_of(entry, make_settings(tmp_path), sealed_otherwise)


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    ("source", "endpoint", "host", "path"),
    [
        ("s3://bucket/a/x.sft", "", "bucket.s3.eu-west-1.amazonaws.com", "/a/x.sft"),
        # No certificate is good for a name with more dots.
        ("s3://dotted.bucket/x.sft", "", "s3.eu-west-1.amazonaws.com", "/dotted.bucket/x.sft"),
        ("s3://bucket/x.sft", "https://minio.lan:9000", "minio.lan:9000", "/bucket/x.sft"),
    ],
)
def test_an_object_is_signed_for_anew_each_time(
    tmp_path: Path, source: str, endpoint: str, host: str, path: str
) -> None:
    found = address(tmp_path, source, models_s3_endpoint_url=endpoint)
    parts = urlsplit(found.url())
    assert (parts.scheme, parts.netloc, parts.path) == ("https", host, path)
    signed = parse_qs(parts.query)
    assert signed["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert "/eu-west-1/s3/" in signed["X-Amz-Credential"][0]
    assert not found.allow_http
    assert (found.shown, "Signature" in repr(found)) == (source, False)


@pytest.mark.usefixtures("credentials")
def test_an_endpoint_without_tls_says_that_it_is_meant(tmp_path: Path) -> None:
    assert address(tmp_path, "s3://bucket/x.sft", models_s3_endpoint_url="http://minio.lan").allow_http


@pytest.mark.parametrize(
    ("source", "more", "words"),
    [
        ("http://a.example/x", {}, "COMFYLINE_MODELS_ALLOW_HTTP"),
        ("https://a.example/x", {"path": "checkpoints/x.ckpt"}, "COMFYLINE_MODELS_ALLOW_CODE"),
        ("https://a.example/x", {"path": "checkpoints/../x.sft"}, "below the folder of models"),
        ("https://a.example/x", {"token": "none"}, "There is no token none"),
    ],
)
def test_what_this_host_does_not_allow_is_refused(
    tmp_path: Path, source: str, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelRefused, match=words):
        address(tmp_path, source, **more)


def test_a_profile_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(ModelRefused, match=r"no credentials on this host \(ProfileNotFound\); see AWS_ACCESS_KEY_ID"):
        address(tmp_path, "s3://bucket/x.sft")
