"""The API beside a bucket that falls silent in the middle of an upload, and beside one that is merely slow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from core.ledger.upgrade import migrate
from core.settings import Settings
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.faulty_bucket import faulty_bucket
from tests.integration.api_fixtures import FreezableProxy, gunicorn_api, settings_for
from tests.s3_server import S3Server
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
#: 2 s until it is suspected, 5 s for the look, and some for a machine that is busy. The first silence that botocore
#: gives up is 20 s long.
SOON_S = 12.0
#: Longer than that takes.
LONG_S = 9.0


@pytest.fixture
def s3() -> Iterator[S3Server]:
    server = S3Server()
    server.empty(BUCKET)
    yield server
    server.stop()


def settings_at(url: str, folder: Path) -> tuple[Settings, dict[str, str]]:
    """The settings of an API over a bucket at an address, and the same for its environment."""
    settings = settings_for(folder, **bucket_settings(url))
    migrate(settings)
    return settings, {f"COMFYLINE_{name.upper()}": value for name, value in bucket_settings(url).items()}


def upload(url: str, content: bytes) -> requests.Response:
    files, form = {"file": ("a.bin", content)}, {"file_path": "a.bin"}
    return requests.post(f"{url}/api/v2/assets", files=files, data=form, timeout=60)


def test_an_upload_under_way_is_refused_soon_when_the_bucket_falls_silent(s3: S3Server, tmp_path: Path) -> None:
    proxy = FreezableProxy("127.0.0.1", s3.port)
    settings, environment = settings_at(f"http://127.0.0.1:{proxy.port}", tmp_path)
    try:
        with gunicorn_api(settings, **environment) as url:
            # An answer that does not come, a body that is not taken, and parts of which none is.
            for size_bytes in (1000, 12 * MIB, 40 * MIB):
                # The process has just seen that the bucket is there.
                assert upload(url, os.urandom(1000)).status_code == 201
                proxy.freeze()
                began_s = time.monotonic()
                answer = upload(url, os.urandom(size_bytes))
                took_s = time.monotonic() - began_s
                proxy.thaw()

                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
                assert "storage of files is not available" in answer.json()["error"]["message"]
                assert took_s < min(SOON_S * PATIENCE, 19.0), size_bytes
                deadline_s = time.monotonic() + 30 * PATIENCE
                while upload(url, os.urandom(1000)).status_code != 201:
                    assert time.monotonic() < deadline_s, "it goes on when the bucket answers again"
                    time.sleep(0.2)
    finally:
        proxy.close()


def test_an_upload_into_a_slow_bucket_takes_as_long_as_that_takes(s3: S3Server, tmp_path: Path) -> None:
    with faulty_bucket(s3.port) as front:
        settings, environment = settings_at(front.url, tmp_path)
        with gunicorn_api(settings, **environment) as url:
            assert upload(url, b"first").status_code == 201
            front.bytes_per_s = 0.6 * MIB
            began_s = time.monotonic()

            answer = upload(url, os.urandom(8 * MIB))

            assert answer.status_code == 201, answer.text
            assert time.monotonic() - began_s > LONG_S
