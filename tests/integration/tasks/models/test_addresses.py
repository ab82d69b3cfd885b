"""Sources of every kind from real servers, with the tokens and credentials of the host that asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy.model_files.download import Download, Fetched
from comfy.model_files.offers import Wanted
from core.errors import ConfigurationError, ModelRefused
from core.records.model_file import ModelFile
from core.settings import Settings
from core.settings.joint_checks import refuse_malformed_tokens
from tasks.models.addresses import address_of
from tests.model_server import ModelServer, Served, content, model_server
from tests.s3_server import S3Server
from tests.services import make_settings

BODY = content(3_000_000)
SHA = Served(BODY).sha256


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


def fetch(settings: Settings, folder: Path, source: str, **fields: Any) -> Fetched | None:
    fields.setdefault("sha256", SHA)
    entry = ModelFile(path="checkpoints/x.safetensors", source=source, **fields)
    part = folder / ".x.safetensors.part"
    wanted = Wanted(sha256=entry.sha256, size_bytes=entry.size_bytes)
    return Download(address_of(entry, settings), part, wanted, block_bytes=500_000).run()


def test_a_file_of_a_hub_comes_with_the_hosts_token_and_the_hubs_hash(server: ModelServer, tmp_path: Path) -> None:
    linked = {"X-Linked-Etag": f'"{SHA}"', "X-Linked-Size": str(len(BODY))}
    server.serve("/owner/name/resolve/main/a/x.safetensors", b"", redirect="/cdn", headers=linked, token="hub-token")
    server.serve("/cdn", BODY)
    settings = make_settings(tmp_path, models_hub_url=server.url, models_tokens="other=x, hub=hub-token")
    source = "hf://owner/name@main/a/x.safetensors"
    assert fetch(settings, tmp_path, source, sha256=None, token="hub") == Fetched(sha256=SHA, size_bytes=len(BODY))
    with pytest.raises(ModelRefused, match="answered 401: it asks for a token") as caught:
        fetch(settings, tmp_path, source, token="other")
    assert "hub-token" not in str(caught.value)
    with pytest.raises(ModelRefused, match="no token missing: enter it with comfyline models tokens set missing"):
        fetch(settings, tmp_path, source, token="missing")


def test_what_this_host_does_not_allow_is_not_fetched(server: ModelServer, tmp_path: Path) -> None:
    """Whatever the API has let in, by settings of its own."""
    server.serve("/x", BODY)
    with pytest.raises(ModelRefused, match="COMFYLINE_MODELS_ALLOW_HTTP"):
        fetch(make_settings(tmp_path), tmp_path, f"{server.url}/x")
    settings = make_settings(tmp_path, models_allow_http=True)
    assert fetch(settings, tmp_path, f"{server.url}/x") is not None


def test_an_object_of_a_bucket_comes_by_signed_ranges(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "admin")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = s3.new_target().bucket_name
    settings = make_settings(tmp_path, models_s3_endpoint_url=s3.url)
    s3.client.put_object(Bucket=bucket, Key="sd/x.safetensors", Body=BODY)
    found = fetch(settings, tmp_path, f"s3://{bucket}/sd/x.safetensors", size_bytes=len(BODY))
    assert found == Fetched(sha256=SHA, size_bytes=len(BODY))
    absent = {f"s3://{bucket}/none.safetensors": "object", "s3://no-such-bucket/x.safetensors": "bucket"}
    for missing, what in absent.items():
        with pytest.raises(ModelRefused, match=rf"{missing} answered 404 \(NoSuch\w+\): there is no such {what}"):
            fetch(settings, tmp_path, missing)


def test_without_credentials_a_bucket_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(ModelRefused, match=r"boto3 finds no credentials on this host \(NoCredentialsError\)"):
        fetch(make_settings(tmp_path), tmp_path, "s3://bucket/x.safetensors")


@pytest.mark.parametrize("tokens", ["alone", "=token", "name=", "a=b,c", "a=t\u00f6ken"])
def test_tokens_have_names(tmp_path: Path, tokens: str) -> None:
    with pytest.raises(ConfigurationError, match="COMFYLINE_MODELS_TOKENS must be name=token"):
        refuse_malformed_tokens(make_settings(tmp_path, models_tokens=tokens))
