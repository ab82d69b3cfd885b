"""The bucket that is the storage: what may name it, and that half of a name stops the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigurationError
from core.settings import load_settings
from core.settings.neighbours import serves_one_machine
from core.storage.backend import direct_uploads, input_storage, output_storage


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://My_bucket.old/a/b/", "s3://My_bucket.old/a/b"),
    ],
)
def test_a_bucket_with_or_without_a_folder(value: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_STORAGE_URL", value)

    assert load_settings().storage_url == url


@pytest.mark.parametrize(
    "value",
    ["bucket", "https://bucket/a", "s3://", "s3:///a", "s3://b", "s3://a..b/c", "s3://bucket/a/../b", "file:///a"],
)
def test_what_names_no_bucket_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_STORAGE_URL", value)

    with pytest.raises(ConfigurationError, match=r"^COMFYLINE_STORAGE_URL: must (be a bucket|have a relative path)"):
        load_settings()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"URL": "s3://bucket", "ACCESS_KEY_ID": "a"},
            "COMFYLINE_STORAGE_SECRET_ACCESS_KEY missing: set both of",
        ),
        (
            {"URL": "s3://bucket", "SECRET_ACCESS_KEY": "a"},
            "COMFYLINE_STORAGE_ACCESS_KEY_ID missing: set both of",
        ),
        ({"ENDPOINT_URL": "http://minio:9000"}, "COMFYLINE_STORAGE_URL missing"),
        ({"REGION": "eu-west-1"}, "COMFYLINE_STORAGE_URL missing"),
        ({"URL": "s3://bucket", "ENDPOINT_URL": "minio:9000"}, "must begin with http:// or https://"),
        ({"URL": "s3://bucket", "REGION": "not a region!"}, "COMFYLINE_STORAGE_REGION must be letters, digits"),
    ],
)
def test_halves_are_refused(given: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"COMFYLINE_STORAGE_{name}", value)

    with pytest.raises(ConfigurationError, match=words):
        load_settings()


@pytest.mark.parametrize("name", ["STORAGE_ENDPOINT_URL", "MODELS_HUB_URL", "MODELS_S3_ENDPOINT_URL"])
@pytest.mark.parametrize(
    "url", ["http://", "https://:9000", "ftp://minio", "minio:9000", "http://minio:port", "http://[x"]
)
def test_the_address_of_no_server_is_refused(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_STORAGE_URL", "s3://bucket")
    monkeypatch.setenv(f"COMFYLINE_{name}", url)
    with pytest.raises(
        ConfigurationError, match=f"COMFYLINE_{name} must begin with http:// or https:// and name a host"
    ):
        load_settings()
    monkeypatch.setenv(f"COMFYLINE_{name}", "http://[::1]:9000/below")
    load_settings()


def test_a_secret_in_a_file_is_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("hush-hush\n")
    monkeypatch.setenv("COMFYLINE_STORAGE_URL", "s3://bucket")
    monkeypatch.setenv("COMFYLINE_STORAGE_ACCESS_KEY_ID", "the-key")
    monkeypatch.setenv("COMFYLINE_STORAGE_SECRET_ACCESS_KEY_FILE", str(tmp_path / "secret"))

    settings = load_settings()

    assert settings.storage_secret_access_key.get_secret_value() == "hush-hush"
    assert "hush" not in repr(settings)
    assert "the-key" not in repr(settings)


def test_the_setting_chooses_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings()
    assert (output_storage(before).is_remote, direct_uploads(before)) == (False, None)
    monkeypatch.setenv("COMFYLINE_STORAGE_URL", "s3://bucket")

    after = load_settings()

    assert output_storage(after).is_remote
    assert input_storage(after) is input_storage(after)
    assert direct_uploads(after) is not None
    assert output_storage(after).workplace == after.data_dir / "outgoing"
    assert (serves_one_machine(before), serves_one_machine(after)) == (True, False)
