"""A large file that a client sends straight into the bucket, in parts: its bytes do not pass the API.

With COMFYLINE_TEST_LONG=1 it has 5 GiB and a bit, which S3 takes in parts only.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
import requests
from blake3 import blake3

from core.storage.checking import check
from tests.bucket_fleet import bucket_settings
from tests.endless_bucket import SMALL_BYTES, EndlessBucket, endless_bucket, pattern
from tests.integration.api_fixtures import Api, running_api, settings_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 1024 * 1024
SIZE_BYTES = 5 * 1024 * MIB + 12_345 if os.environ.get("COMFYLINE_TEST_LONG") else 130 * MIB + 12_345
#: What this process may grow by: client, API and bucket are all in it.
GROWTH_BYTES = 120 * MIB


def most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def digest_of(size_bytes: int) -> str:
    digest = blake3()
    for piece in pattern(0, size_bytes):
        digest.update(piece)
    return f"blake3:{digest.hexdigest()}"


def send(api: Api, size_bytes: int) -> str:
    """Begin an upload and send all of its parts; returns its id."""
    answer = api.post("/api/v2/assets/uploads", {"size_bytes": size_bytes})
    assert answer.status_code == 201, answer.text
    upload = answer.json()
    assert (upload["url"] is None) == (size_bytes > 5 * 1024 * MIB)
    assert sum(part["size_bytes"] for part in upload["parts"]) == size_bytes
    for part in upload["parts"]:
        headers = {"Content-Length": str(part["size_bytes"])}
        # With a length, or requests would send it in chunks.
        sent = requests.put(part["url"], data=_Body(part["size_bytes"]), headers=headers, timeout=120)
        assert sent.status_code == 200, sent.text
    return str(upload["id"])


class _Body:
    """The bytes of one part, as requests reads a file."""

    def __init__(self, size_bytes: int) -> None:
        self._pieces, self._size_bytes = pattern(0, size_bytes), size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    def read(self, _size_bytes: int = -1) -> bytes:
        return next(self._pieces, b"")


def test_a_large_file_passes_by_the_api(tmp_path: Path) -> None:
    with endless_bucket() as bucket:
        settings = settings_for(tmp_path, max_upload_bytes=6 * 1024 * MIB, **bucket_settings(bucket.url))
        with running_api(settings) as api:
            _passes_by(api, bucket)


def _passes_by(api: Api, bucket: EndlessBucket) -> None:
    digest = digest_of(SIZE_BYTES)
    send(api, 65 * MIB)
    before_bytes = most_bytes()
    bucket.came_bytes = bucket.went_bytes = 0

    upload_id = send(api, SIZE_BYTES)
    finish = {"hash": digest, "file_path": "large.bin"}
    answer = api.post(f"/api/v2/assets/uploads/{upload_id}/finish", finish)

    assert (answer.status_code, answer.json()["status"]) == (202, "checking"), answer.text
    assert api.publisher.checks[-1] == upload_id
    # Bodies of less than that are not counted.
    assert SIZE_BYTES - SMALL_BYTES < bucket.came_bytes <= SIZE_BYTES
    assert (bucket.went_bytes, bucket.wrong) == (0, 0), "the API has read nothing"
    # What an io worker does then.
    assert check(api.ledger, api.settings, upload_id)
    asset = api.get(f"/api/v2/assets/uploads/{upload_id}").json()["asset"]
    assert (asset["hash"], asset["size_bytes"]) == (digest, SIZE_BYTES)
    assert SIZE_BYTES <= bucket.went_bytes < SIZE_BYTES + 64 * MIB, "it is read once"
    key = f"files/inputs/{digest[7:9]}/{digest[7:]}"
    assert bucket.objects[key][0] == SIZE_BYTES
    assert not any(key.startswith(f"files/uploads/{upload_id}") for key in bucket.objects)
    assert most_bytes() - before_bytes < GROWTH_BYTES
