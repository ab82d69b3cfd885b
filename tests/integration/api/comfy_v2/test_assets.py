"""Files that come in through Comfy API v2: uploaded, known by hash, listed, fetched, deleted, expired."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy_sdk
import pytest
import requests
from blake3 import blake3
from PIL import Image

from core.storage.folders import FRESH_S
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH

HEX = "0" * 64


def png(color: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size, (color, 0, 0)).save(target, "PNG")
    return target.getvalue()


def hash_of(content: bytes) -> str:
    return f"blake3:{blake3(content).hexdigest()}"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    settings = settings_for(tmp_path_factory.mktemp("api"), max_upload_bytes=300_000)
    with running_api(settings) as running:
        running.worker.come_up()
        yield running


@pytest.fixture
def client(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[comfy_sdk.Comfy]:
    monkeypatch.setenv("COMFY_BASE_URL", api.url)
    with comfy_sdk.Comfy() as client:
        yield client


def upload(api: Api, content: bytes, **fields: str) -> requests.Response:
    form = {"content_type": "image/png", "file_path": "photo.png"} | fields
    return api.post("/api/v2/assets", files={"file": ("x", content)}, data=form)


def code_of(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def blobs(api: Api) -> list[Path]:
    return sorted(path for path in api.settings.inputs_dir.glob("??/*"))


def test_an_upload_can_be_read_back(api: Api) -> None:
    content = png(1)
    answer = upload(api, content, expires_in="3600", expected_hash=hash_of(content), tags="input")
    assert answer.status_code == 201, answer.text
    asset = answer.json()
    assert asset["hash"] == hash_of(content)
    assert (asset["size_bytes"], asset["content_type"], asset["created_new"]) == (len(content), "image/png", True)
    assert (asset["file_path"], asset["job_id"]) == ("photo.png", None)
    again = api.get(f"/api/v2/assets/{asset['id']}").json()
    assert again == {key: value for key, value in asset.items() if key != "created_new"}
    got = api.get(f"/api/v2/assets/{asset['id']}/content", headers={"Range": "bytes=1-3"})
    assert (got.status_code, got.content) == (206, content[1:4])
    assert requests.get(asset["url"], timeout=5).content == content


def test_equal_files_are_kept_once(api: Api) -> None:
    content = png(2)
    before = len(blobs(api))
    first, second = upload(api, content), upload(api, content, file_path="input/rooms/other.png")
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json()["created_new"] is False
    assert second.json()["file_path"] == "rooms/other.png"
    assert first.json()["id"] != second.json()["id"]
    assert len(blobs(api)) == before + 1

    assert api.session.delete(f"{api.url}/api/v2/assets/{first.json()['id']}", timeout=5).status_code == 204
    assert code_of(api.get(f"/api/v2/assets/{first.json()['id']}")) == (404, "not_found")
    assert code_of(api.session.delete(f"{api.url}/api/v2/assets/{first.json()['id']}", timeout=5)) == (404, "not_found")
    assert api.get(f"/api/v2/assets/{second.json()['id']}/content").content == content


def test_by_hash(api: Api) -> None:
    content = png(3)
    digest = hash_of(content)
    assert api.session.head(f"{api.url}/api/v2/assets/by-hash/{digest}", timeout=5).status_code == 404
    assert code_of(api.post("/api/v2/assets/from-hash", {"hash": digest})) == (404, "blob_not_found")
    upload(api, content)
    for form in (digest, digest.replace(":", "%3A")):
        assert api.session.head(f"{api.url}/api/v2/assets/by-hash/{form}", timeout=5).status_code == 200
    for form in (digest.upper(), digest.removeprefix("blake3:"), "x", f"blake3:{HEX}"):
        assert api.session.head(f"{api.url}/api/v2/assets/by-hash/{form}", timeout=5).status_code == 404
    answer = api.post("/api/v2/assets/from-hash", {"hash": digest, "file_path": "b.png", "expires_in": 60})
    assert (answer.status_code, answer.json()["file_path"], answer.json()["created_new"]) == (200, "b.png", False)
    assert code_of(api.post("/api/v2/assets/from-hash", [digest])) == (422, "invalid_request")
    assert code_of(api.post("/api/v2/assets/from-hash", {"hash": digest, "expires_in": 5})) == (422, "invalid_request")


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x.png", "a/../../x.png", "..\\x.png", "models/checkpoints/x.safetensors", "output/x.png",
     "%2e%2e/x.png", "a/%2e%2e%2fx", "C:x.png", "a\x01.png", "x.png [output]", "~/x.png", "a//b.png"],
)  # fmt: skip
def test_paths_that_lead_out_are_refused(api: Api, path: str) -> None:
    before = blobs(api)
    assert code_of(upload(api, png(4), file_path=path)) == (422, "invalid_request")
    assert blobs(api) == before


def test_bad_uploads(api: Api) -> None:
    before = blobs(api)
    assert code_of(upload(api, png(5), expected_hash=f"blake3:{HEX}")) == (409, "hash_mismatch")
    assert code_of(upload(api, b"x" * 300_001)) == (413, "payload_too_large")
    assert code_of(upload(api, b"x" * 600_000)) == (413, "payload_too_large")
    for expires_in in ("59", "604801", "1e3", "-60", "x"):
        assert code_of(upload(api, png(5), expires_in=expires_in)) == (422, "invalid_request")
    for form in ({}, {"file_path": ""}):
        unnamed = api.post("/api/v2/assets", data=form, files={"file": ("a.png", png(5))})
        assert unnamed.status_code == 422, unnamed.text
        assert "needs a part file_path" in unnamed.json()["error"]["message"]
    other = api.post("/api/v2/assets", data={"file_path": "a.png"}, files={"other": b""})
    assert code_of(other) == (422, "invalid_request")
    assert code_of(api.post("/api/v2/assets", {"file": "x"})) == (415, "unsupported_media_type")
    for body in (
        b"",
        b"nothing of the kind",
        b"--b\r\nbroken",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--",
    ):
        answer = api.post("/api/v2/assets", data=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert answer.status_code in (400, 422), (body, answer.text)
        assert answer.json()["error"]["code"] == "invalid_request"
    assert blobs(api) == before
    assert list((api.settings.inputs_dir / ".drafts").iterdir()) == []


def test_outputs_are_assets_that_go_with_their_job(api: Api) -> None:
    job_id = api.submit()
    api.worker.run(job_id, png(6))
    (output,) = api.get(f"/api/v2/jobs/{job_id}").json()["outputs"]
    answer = api.session.delete(f"{api.url}/api/v2/assets/{output['id']}", timeout=5)
    assert code_of(answer) == (409, "asset_in_use")


def test_what_expires_goes_with_its_bytes_unless_a_job_needs_them(api: Api) -> None:
    wanted, unwanted = upload(api, png(7)).json(), upload(api, png(8)).json()
    graph: dict[str, Any] = {"1": {"class_type": "LoadImage", "inputs": {"image": wanted["id"]}}, "2": GRAPH["2"]}
    job_id = api.submit(workflow=graph)
    keys = {asset["id"]: api.ledger.input_files.get(asset["id"]).storage_key for asset in (wanted, unwanted)}
    for asset_id, key in keys.items():
        api.ledger.input_files.remove(asset_id)
        long_ago_s = time.time() - FRESH_S - 1
        os.utime(api.settings.inputs_dir / key, (long_ago_s, long_ago_s))

    assert keys[unwanted["id"]] in api.ledger.input_files.remove_expired()
    assert api.post(f"/api/v2/jobs/{job_id}/cancel").json()["status"] == "canceled"
    assert keys[wanted["id"]] in api.ledger.input_files.remove_expired()
    assert api.ledger.input_files.by_hash(wanted["hash"]) is None


def test_the_official_client_uploads_and_refers(api: Api, client: comfy_sdk.Comfy, tmp_path: Path) -> None:
    content = png(9)
    path = tmp_path / 'my "photo" é.png'
    path.write_bytes(content)
    asset = client.assets.from_file(path)
    graph: dict[str, Any] = {
        "1": {"class_type": "LoadImage", "inputs": {"image": asset.as_reference()}},
        "2": GRAPH["2"],
    }
    job = client.submit(client.workflows.from_json(graph))
    (staged,) = api.ledger.jobs.get(job.id).inputs
    assert staged.name.startswith(f"{job.id}/0-my_photo")
    assert job.get_workflow().graph["1"]["inputs"]["image"] == staged.name
    assert (api.settings.inputs_dir / staged.key).read_bytes() == content

    again = client.assets.from_bytes(content, filename="b.png")
    assert again.commit() != asset.id
    assert again.created_new is False
    again.delete()
    assert client.assets.get(str(asset.id)).hash == hash_of(content)
