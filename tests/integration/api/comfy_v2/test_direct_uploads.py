"""Files that clients send straight into the bucket: theirs when the hash is right, gone when it is not."""

from __future__ import annotations

import io
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from blake3 import blake3
from PIL import Image

from api.service import direct_intake
from api.service.tenant_room import KEPT_AGE_S
from core.errors import LedgerUnavailable
from core.ledger.direct_uploads import DirectUploadRows
from core.records.tenant_limits import TenantLimits
from core.settings import Settings
from core.storage import checking
from core.storage import direct_uploads as direct
from core.storage.checking import check
from core.storage.direct_uploads import DirectUploads
from core.storage.folders import BucketFault
from tasks.reconciling import expiry
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.faulty_bucket import faulty_bucket
from tests.integration.api.comfy_v2.test_assets import code_of
from tests.integration.api.test_tenants import Client
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.s3_server import S3Server

LIMIT_BYTES = 30_000_000
MIB = 1024 * 1024
PNG = b"\x89PNG\r\n\x1a\n"


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


@pytest.mark.parametrize("size_bytes", [10, 10_000_000])
def test_what_was_sent_is_an_asset_like_others(api: Api, s3: S3Server, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    upload_id = sent(api, content)

    answer = finished(api, upload_id, hash_of(content))

    assert answer.status_code == 201, answer.text
    asset = answer.json()
    assert (asset["hash"], asset["size_bytes"], asset["file_path"]) == (hash_of(content), size_bytes, "a.bin")
    assert requests.get(asset["url"], timeout=10).content == content
    assert names(s3) == []
    # As an answer that was lost is asked for again.
    assert finished(api, upload_id, hash_of(content)).json()["id"] == asset["id"]
    assert api.get(f"/api/v2/assets/uploads/{upload_id}").json()["asset"]["id"] == asset["id"]
    # But not as another file.
    assert code_of(finished(api, upload_id, hash_of(b"another"))) == (422, "invalid_request")
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
    requests.put(upload["url"], data=b"xx", timeout=20)
    answer = finished(api, upload["id"], hash_of(b"xx"))
    assert code_of(answer) == (422, "invalid_request")
    assert answer.json()["error"]["message"] == "2 bytes were sent, and 1 announced."
    assert names(s3) == []
    assert code_of(finished(api, upload["id"], hash_of(b"xx"))) == (422, "invalid_request")


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
    needed = sent(api, b"to be checked")
    assert uploads.sweep({needed}) == 0
    monkeypatch.setattr(direct, "UNFINISHED_S", -60.0)

    assert uploads.sweep({needed}) == 1

    assert names(s3) == [f"files/uploads/{needed}"]
    assert uploads.sweep(()) == 1

    assert names(s3) == []


class TestParts:
    SIZE_BYTES = 12 * MIB

    @pytest.fixture(autouse=True)
    def small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(direct, "PARTS_FROM_BYTES", 5 * MIB)

    def test_a_large_file_comes_in_parts_that_may_be_late(self, api: Api, s3: S3Server) -> None:
        content = os.urandom(self.SIZE_BYTES)
        upload = begun(api, len(content))
        assert [(part["number"], part["size_bytes"]) for part in upload["parts"]] == [
            (1, 5 * MIB),
            (2, 5 * MIB),
            (3, 2 * MIB),
        ]
        query = parse_qs(urlsplit(upload["parts"][2]["url"]).query)
        assert query["X-Amz-SignedHeaders"] == ["content-length;host"]
        for part in (upload["parts"][0], upload["parts"][2]):
            put_part(upload, part, content)

        answer = finished(api, upload["id"], hash_of(content))

        assert code_of(answer) == (422, "invalid_request")
        assert "Of 3 parts these are missing, or not as large as said: 2." in answer.json()["error"]["message"]
        now = api.get(f"/api/v2/assets/uploads/{upload['id']}").json()
        assert (now["status"], [part["number"] for part in now["parts"]]) == ("sending", [2])
        put_part(now, now["parts"][0], content)
        answer = finished(api, upload["id"], hash_of(content))
        assert answer.status_code == 201, answer.text
        assert requests.get(answer.json()["url"], timeout=10).content == content
        assert names(s3) == []

    def test_it_may_come_at_once_all_the_same(self, api: Api, s3: S3Server) -> None:
        content = os.urandom(self.SIZE_BYTES)

        assert finished(api, sent(api, content), hash_of(content)).status_code == 201

        assert "Uploads" not in s3.client.list_multipart_uploads(Bucket=BUCKET, Prefix="files/uploads/")

    def test_nothing_was_sent(self, api: Api) -> None:
        upload = begun(api, self.SIZE_BYTES)
        assert code_of(finished(api, upload["id"], hash_of(b""))) == (404, "not_found")

    def test_what_is_larger_than_s3_takes_at_once_has_no_url_for_all_of_it(
        self, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(direct, "MOST_AT_ONCE_BYTES", self.SIZE_BYTES - 1)
        upload = begun(api, self.SIZE_BYTES)
        assert upload["url"] is None
        assert upload["url_expires_at"] is not None

    def test_however_large_a_file_is_its_links_fit_into_an_answer(
        self, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(direct, "MOST_PARTS", 2)
        assert [part["size_bytes"] for part in begun(api, self.SIZE_BYTES + 1)["parts"]] == [7 * MIB, 5 * MIB + 1]

    def test_a_file_as_large_as_s3_takes_comes_in_parts_as_large_as_it_takes(
        self, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(direct, "MOST_PARTS", 2)
        monkeypatch.setattr(direct, "MOST_AT_ONCE_BYTES", 6 * MIB)
        upload = begun(api, self.SIZE_BYTES + 1)
        assert [part["size_bytes"] for part in upload["parts"]] == [6 * MIB, 6 * MIB, 1]

    def test_what_is_larger_than_any_object_is_refused_with_the_limit(
        self, api: Api, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(direct, "MOST_BYTES", self.SIZE_BYTES)
        before = s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        answer = api.post("/api/v2/assets/uploads", {"size_bytes": self.SIZE_BYTES + 1})
        assert code_of(answer) == (413, "payload_too_large")
        assert f"S3's limit of {self.SIZE_BYTES} bytes" in answer.text
        assert s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == before
        assert begun(api, self.SIZE_BYTES)["status"] == "sending"

    def test_what_nobody_finished_is_forgotten_with_its_parts(
        self, api: Api, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = os.urandom(self.SIZE_BYTES)
        upload = begun(api, len(content))
        put_part(upload, upload["parts"][0], content)
        runtime: Any = SimpleNamespace(settings=api.settings, ledger=api.ledger)
        monkeypatch.setattr(expiry, "DIRECT_S", -60.0)

        expiry._remove_direct_uploads(runtime)

        assert "Uploads" not in s3.client.list_multipart_uploads(Bucket=BUCKET, Prefix="files/uploads/")
        assert api.get(f"/api/v2/assets/uploads/{upload['id']}").status_code == 404


def put_part(upload: dict[str, Any], part: dict[str, Any], content: bytes) -> None:
    start = (part["number"] - 1) * upload["part_bytes"]
    piece = content[start : start + part["size_bytes"]]
    assert requests.put(part["url"], data=piece, timeout=20).status_code == 200


class TestLarge:
    """Files that no request reads: an io worker does."""

    @pytest.fixture(autouse=True)
    def read_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(direct_intake, "READ_HERE_BYTES", 10)

    def test_it_is_an_asset_when_it_has_been_looked_at(self, api: Api, s3: S3Server) -> None:
        content = PNG + os.urandom(1000)
        upload_id = sent(api, content)

        answer = finished(api, upload_id, hash_of(content))

        assert (answer.status_code, answer.json()["status"], answer.json()["asset"]) == (202, "checking", None)
        assert answer.json()["url"] is None
        assert api.publisher.checks[-1] == upload_id
        assert api.session.head(f"{api.url}/api/v2/assets/by-hash/{hash_of(content)}", timeout=5).status_code == 404
        assert finished(api, upload_id, hash_of(content)).status_code == 202
        assert check(api.ledger, api.settings, upload_id)
        assert not check(api.ledger, api.settings, upload_id), "there is nothing left to do"
        now = api.get(f"/api/v2/assets/uploads/{upload_id}").json()
        assert (now["status"], now["asset"]["content_type"]) == ("finished", "image/png")
        assert requests.get(now["asset"]["url"], timeout=10).content == content
        assert finished(api, upload_id, hash_of(content)).status_code == 201
        assert names(s3) == []

    def test_one_that_lies_is_refused_when_it_has_been_looked_at(self, api: Api, s3: S3Server) -> None:
        content = os.urandom(1000)
        upload_id = sent(api, content)
        assert finished(api, upload_id, hash_of(b"another")).status_code == 202

        assert check(api.ledger, api.settings, upload_id)

        now = api.get(f"/api/v2/assets/uploads/{upload_id}").json()
        words = f"The file has the hash {hash_of(content)}, not the expected one."
        assert (now["status"], now["error"]) == ("refused", {"code": "hash_mismatch", "message": words})
        assert code_of(finished(api, upload_id, hash_of(b"another"))) == (409, "hash_mismatch")
        assert names(s3) == []

    def test_one_whose_bytes_went_meanwhile(self, api: Api, s3: S3Server) -> None:
        upload_id = sent(api, b"x" * 100)
        finished(api, upload_id, hash_of(b"x" * 100))
        s3.client.delete_object(Bucket=BUCKET, Key=f"files/uploads/{upload_id}")

        check(api.ledger, api.settings, upload_id)

        assert code_of(finished(api, upload_id, hash_of(b"x" * 100))) == (404, "not_found")

    def test_a_bucket_that_fails_has_it_looked_at_again(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        upload_id = sent(api, b"y" * 100)
        finished(api, upload_id, hash_of(b"y" * 100))
        monkeypatch.setattr(checking, "REST_S", 0.0)
        away = api.settings.model_copy(update={"storage_endpoint_url": "http://127.0.0.1:9"})

        with pytest.raises(BucketFault, match="no connection"):
            check(api.ledger, away, upload_id)

        assert upload_id in api.ledger.direct_uploads.due()
        assert check(api.ledger, api.settings, upload_id)
        assert finished(api, upload_id, hash_of(b"y" * 100)).status_code == 201

    def test_a_ledger_that_goes_at_the_last_step_loses_nothing(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        upload_id = sent(api, b"z" * 100)
        finished(api, upload_id, hash_of(b"z" * 100))
        finish = DirectUploadRows.finish

        def fail(*_arguments: Any, **_more: Any) -> None:
            raise LedgerUnavailable("gone")

        monkeypatch.setattr(DirectUploadRows, "finish", fail)
        with pytest.raises(LedgerUnavailable):
            check(api.ledger, api.settings, upload_id)
        monkeypatch.setattr(DirectUploadRows, "finish", finish)
        api.ledger.direct_uploads.hold(upload_id, lease_s=-1)

        assert check(api.ledger, api.settings, upload_id)

        assert finished(api, upload_id, hash_of(b"z" * 100)).status_code in (200, 201)


def test_a_job_that_takes_a_large_file_has_none_of_it_pass_the_api(
    s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Counted at the bucket. Pictures are looked into, and only they."""
    film, picture = b"\x1aE\xdf\xa3" + os.urandom(1000), io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    with faulty_bucket(s3.port) as front:
        values = {**bucket_settings(front.url), "storage_url": f"s3://{BUCKET}/another"}
        settings = settings_for(tmp_path_factory.mktemp("api"), **values)
        with running_api(settings) as api:
            api.worker.come_up()
            read = {}
            for node, name, content in (("LoadVideo", "file", film), ("LoadImage", "image", picture.getvalue())):
                asset = finished(api, sent(api, content), hash_of(content)).json()
                front.seen.clear()
                graph = {
                    "1": {"class_type": node, "inputs": {name: asset["id"]}},
                    "2": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
                    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a"}},
                }
                assert api.post("/api/v2/jobs", {"workflow": graph}).status_code == 201
                read[node] = [asked.key for asked, _ in front.seen if asked.method == "GET" and "/inputs/" in asked.key]
    assert (len(read["LoadVideo"]), len(read["LoadImage"])) == (0, 1)


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


@pytest.fixture
def acme(tmp_path: Path, s3: S3Server) -> Iterator[Client]:
    """A tenant that may keep 1,000 bytes, of a server of its own."""
    chosen = {**bucket_settings(s3.url), "storage_url": f"s3://{BUCKET}/limits-{uuid.uuid4().hex[:8]}"}
    with running_api(settings_for(tmp_path, **chosen)) as running:
        running.ledger.tenants.create("acme", limits=TenantLimits(max_kept_bytes=1000))
        yield Client(running, "acme")


def put(client: Client, content: bytes) -> str:
    """Begin and send; returns the upload's id."""
    answer = client.ask("POST", "/api/v2/assets/uploads", json={"size_bytes": len(content)})
    assert answer.status_code == 201, answer.text
    assert requests.put(answer.json()["url"], data=content, timeout=20).status_code == 200
    return str(answer.json()["id"])


def finish(client: Client, upload_id: str, content: bytes) -> requests.Response:
    path = f"/api/v2/assets/uploads/{upload_id}/finish"
    return client.ask("POST", path, json={"hash": hash_of(content), "file_path": "a.bin"})


def kept_bytes(client: Client) -> int:
    return int(client.ask("GET", "/api/v2/limits").json()["limits"]["max_kept_bytes"]["used"])


class TestLimit:
    def test_what_does_not_fit_is_refused_at_the_start(self, acme: Client) -> None:
        never = acme.ask("POST", "/api/v2/assets/uploads", json={"size_bytes": 1001})
        assert (never.status_code, never.json()["error"]["details"]["limit"]) == (429, "max_kept_bytes")
        assert "Retry-After" not in never.headers
        content = os.urandom(700)
        assert finish(acme, put(acme, content), content).status_code == 201
        # A process looks once a second.
        time.sleep(KEPT_AGE_S + 0.1)
        later = acme.ask("POST", "/api/v2/assets/uploads", json={"size_bytes": 301})
        assert (later.status_code, int(later.headers["Retry-After"]) > 0) == (429, True)
        assert acme.ask("POST", "/api/v2/assets/uploads", json={"size_bytes": 300}).status_code == 201

    def test_those_begun_while_there_was_room_are_held_to_it_at_the_finish(self, acme: Client) -> None:
        contents = [os.urandom(400) for _ in range(8)]
        begun_ids = [put(acme, content) for content in contents]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda pair: finish(acme, *pair), zip(begun_ids, contents, strict=True)))
        assert Counter(answer.status_code for answer in answers) == {201: 2, 429: 6}
        assert kept_bytes(acme) == 800
        # When there is room again, one that was refused is finished: nothing of it was lost.
        taken = next(answer for answer in answers if answer.status_code == 201).json()["id"]
        assert acme.ask("DELETE", f"/api/v2/assets/{taken}").ok
        left = next(number for number, answer in enumerate(answers) if answer.status_code == 429)
        time.sleep(KEPT_AGE_S + 0.1)
        assert finish(acme, begun_ids[left], contents[left]).status_code == 201
        assert kept_bytes(acme) == 800

    def test_what_was_not_as_said_gives_its_room_back(self, acme: Client) -> None:
        for _ in range(3):
            assert finish(acme, put(acme, os.urandom(900)), b"another").status_code == 409
        assert kept_bytes(acme) == 0
