"""Files that clients send straight into the bucket: theirs when the hash is right, gone when it is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from blake3 import blake3

from core.settings import Settings
from core.storage import direct_uploads as direct
from core.storage.direct_uploads import DirectUploads
from core.storage.folders import BucketFault
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.integration.api.comfy_v2.test_assets import code_of
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.s3_server import S3Server

LIMIT_BYTES = 30_000_000


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    server.empty(BUCKET)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Api]:
    settings = settings_for(tmp_path_factory.mktemp("api"), max_upload_bytes=LIMIT_BYTES, **bucket_settings(s3.url))
    with running_api(settings) as running:
        running.worker.come_up()
        yield running


def hash_of(content: bytes) -> str:
    return f"blake3:{blake3(content).hexdigest()}"


def begun(api: Api, size_bytes: int) -> dict[str, Any]:
    answer = api.post("/api/v2/assets/uploads", {"size_bytes": size_bytes})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def sent(api: Api, content: bytes) -> str:
    """Begin and send; returns the upload's id."""
    upload = begun(api, len(content))
    assert requests.request(upload["method"], upload["url"], data=content, timeout=20).status_code == 200
    return str(upload["id"])


def finished(api: Api, upload_id: str, digest: str, **more: Any) -> requests.Response:
    return api.post(f"/api/v2/assets/uploads/{upload_id}/finish", {"hash": digest, "file_path": "a.bin", **more})


def names(s3: S3Server) -> list[str]:
    listed = s3.client.list_objects_v2(Bucket=BUCKET, Prefix="files/uploads/").get("Contents", ())
    return [item["Key"] for item in listed]


@pytest.mark.parametrize("size_bytes", [10, 20_000_000])
def test_what_was_sent_is_an_asset_like_others(api: Api, s3: S3Server, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    upload_id = sent(api, content)

    answer = finished(api, upload_id, hash_of(content))

    assert answer.status_code == 201, answer.text
    asset = answer.json()
    assert (asset["hash"], asset["size_bytes"], asset["file_path"]) == (hash_of(content), size_bytes, "a.bin")
    assert requests.get(asset["url"], timeout=10).content == content
    assert names(s3) == []
    assert code_of(finished(api, upload_id, hash_of(content))) == (404, "not_found")
    # Once more by the usual road: the bytes are known.
    form: dict[str, Any] = {"data": {"file_path": "b.bin"}, "files": {"file": ("b.bin", content)}}
    assert requests.post(f"{api.url}/api/v2/assets", timeout=20, **form).status_code == 200
    assert finished(api, sent(api, content), hash_of(content)).status_code == 200


def test_another_hash_is_refused_and_nothing_stays(api: Api, s3: S3Server) -> None:
    assert code_of(finished(api, sent(api, b"these"), hash_of(b"those"))) == (409, "hash_mismatch")

    assert names(s3) == []
    assert api.session.head(f"{api.url}/api/v2/assets/by-hash/{hash_of(b'those')}", timeout=5).status_code == 404


def test_the_size_is_part_of_the_signature(api: Api) -> None:
    query = parse_qs(urlsplit(begun(api, 1234)["url"]).query)
    assert query["X-Amz-SignedHeaders"] == ["content-length;host"]
    assert query["X-Amz-Expires"] == [str(direct.LINK_S)]


def test_what_is_too_large_is_refused_before_and_afterwards(api: Api, s3: S3Server) -> None:
    assert code_of(api.post("/api/v2/assets/uploads", {"size_bytes": LIMIT_BYTES + 1})) == (413, "payload_too_large")
    upload = begun(api, 1)
    # This server does not check signatures; one that does would refuse it.
    requests.put(upload["url"], data=b"x" * (LIMIT_BYTES + 1), timeout=20)
    assert code_of(finished(api, upload["id"], hash_of(b""))) == (413, "payload_too_large")
    assert names(s3) == []


@pytest.mark.parametrize(
    "body",
    [{"file_path": "../a"}, {"file_path": "models/a"}, {"hash": "blake3:x"}, {"expires_in": 1}, {"file_path": 5}],
)
def test_bad_input_leaves_the_upload_to_be_finished_rightly(api: Api, body: dict[str, Any]) -> None:
    upload_id = sent(api, b"right")
    whole = {"hash": hash_of(b"right"), "file_path": "a.bin", **body}

    assert code_of(api.post(f"/api/v2/assets/uploads/{upload_id}/finish", whole)) == (422, "invalid_request")

    assert finished(api, upload_id, hash_of(b"right")).status_code in (200, 201)


@pytest.mark.parametrize("upload_id", ["x", "4e4ab5ee-0000-4000-8000-000000000000", "%00"])
def test_an_id_that_is_none(api: Api, upload_id: str) -> None:
    assert finished(api, upload_id, hash_of(b"")).status_code == 404


def test_bytes_that_were_swapped_after_they_were_read_are_not_taken(api: Api, s3: S3Server) -> None:
    upload_id = sent(api, b"read")
    uploads = DirectUploads(api.settings)
    found = uploads.find(upload_id)
    with uploads.open(upload_id, found) as source:
        assert source.read() == b"read"
    s3.client.put_object(Bucket=BUCKET, Key=f"files/uploads/{upload_id}", Body=b"evil")

    with pytest.raises(BucketFault):
        uploads.accept(upload_id, found, f"ab/{blake3(b'read').hexdigest()}", hash_of(b"read"))


def test_what_nobody_finished_is_swept(api: Api, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = DirectUploads(api.settings)
    for name in names(s3):
        s3.client.delete_object(Bucket=BUCKET, Key=name)
    sent(api, b"left")
    assert uploads.sweep() == 0
    monkeypatch.setattr(direct, "UNFINISHED_S", -60.0)

    assert uploads.sweep() == 1

    assert names(s3) == []


def test_a_server_without_a_bucket_says_what_to_do(settings: Settings) -> None:
    with running_api(settings) as plain:
        answer = plain.post("/api/v2/assets/uploads", {"size_bytes": 5})
    assert code_of(answer) == (422, "invalid_request")
    assert "POST /api/v2/assets" in answer.json()["error"]["message"]


def test_what_one_tenant_sends_no_other_one_finishes(tmp_path: Path, s3: S3Server) -> None:
    with running_api(
        settings_for(tmp_path, **{**bucket_settings(s3.url), "storage_url": f"s3://{BUCKET}/of-others"})
    ) as api:
        for tenant in ("acme", "globex"):
            api.ledger.tenants.create(tenant)
        keys = {
            tenant: {"X-API-Key": api.ledger.keys.create(tenant, name="x", scopes=("submit",))[1]}
            for tenant in ("acme", "globex", "default")
        }
        begun = api.post("/api/v2/assets/uploads", {"size_bytes": 4}, headers=keys["acme"]).json()
        assert requests.put(begun["url"], data=b"acme", timeout=20).status_code == 200
        path, body = f"/api/v2/assets/uploads/{begun['id']}/finish", {"hash": hash_of(b"acme"), "file_path": "a.bin"}
        for tenant in ("globex", "default"):
            assert code_of(api.post(path, body, headers=keys[tenant])) == (404, "not_found")
        assert api.post(path, body, headers=keys["acme"]).status_code == 201
