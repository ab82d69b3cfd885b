"""From the request to the file, through every process of a fleet: what comes in, and what becomes of what goes out."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from core.ledger import Ledger
from core.records.bucket_target import BucketTarget
from core.settings import Settings
from tests.fleet import Fleet
from tests.integration.api.comfy_v2.test_assets import hash_of, png
from tests.s3_server import S3Server
from tests.waiting import until


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def own_bucket(s3: S3Server) -> BucketTarget:
    """The operator's."""
    return s3.new_target()


@pytest.fixture(scope="module")
def fleet(s3: S3Server, own_bucket: BucketTarget, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    variables = {"S3_ACCESS_KEY_ID": "operator", "S3_SECRET_ACCESS_KEY": "operators-secret", "S3_ENDPOINT_URL": s3.url}
    variables |= {"S3_BUCKET_NAME": own_bucket.bucket_name, "S3_PREFIX": "ours"}
    root = tmp_path_factory.mktemp("road")
    with Fleet(root, simulated_gpus="1", reconcile_s="1").with_variables(**variables) as fleet:
        yield fleet.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1)


@pytest.fixture(scope="module")
def ledger(fleet: Fleet) -> Iterator[Ledger]:
    ledger = Ledger(Settings(data_dir=fleet.data_dir))
    yield ledger
    ledger.close()


def post(fleet: Fleet, path: str, body: Any = None, **options: Any) -> requests.Response:
    return requests.post(f"{fleet.base_url}{path}", json=body, timeout=60, **options)


def inverted(image: Any) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }


def pixel(content: bytes) -> Any:
    return Image.open(io.BytesIO(content)).convert("RGB").getpixel((0, 0))


def input_folder(fleet: Fleet, job_id: str) -> Path:
    return fleet.data_dir / "gpus" / "gpu0" / "input" / job_id


def test_an_uploaded_picture_reaches_the_gpu_and_leaves_it(fleet: Fleet) -> None:
    image = post(fleet, "/upload/image", files={"file": ("room.png", png(10))}).json()
    job = fleet.wait(fleet.submit(inverted(image["path"])), "succeeded")
    assert pixel(fleet.picture(job)) == (245, 255, 255)
    until(lambda: not input_folder(fleet, job["id"]).exists(), what="the end of its input folder")


def test_a_job_whose_input_is_gone_says_so(fleet: Fleet, ledger: Ledger) -> None:
    image = post(fleet, "/upload/image", files={"file": ("room.png", png(11))}).json()
    fleet.signal("gpu0", 19)
    job_id = fleet.submit(inverted(image["path"]))
    (file,) = ledger.jobs.get(job_id).inputs
    (fleet.data_dir / "inputs" / file.key).unlink()
    fleet.signal("gpu0", 18)
    job = fleet.wait(job_id, "failed")
    assert job["error"]["code"] == "input_gone"


def test_interior_design_as_documented(fleet: Fleet) -> None:
    image = post(fleet, "/upload/image", files={"file": ("room.png", png(12, (640, 480)))}).json()
    parameters = {"user_img": image["path"], "style": "0", "room": "living_room", "prefix": "LIVING_ROOM"}
    answer = post(fleet, "/workflows/interior_design", {"parameters": parameters})
    assert answer.status_code == 201, answer.text
    job = fleet.wait(answer.json()["id"], "succeeded", timeout_s=60)
    assert job["outputs"][0]["name"].startswith("LIVING_ROOM")
    assert isinstance(job["parameters"]["seed"], int)


VALUES = {"prompt": 'a "quoted" fox\\', "width": 256, "height": 256, "steps": 2, "seed": 7}


class TestPrompt:
    @pytest.mark.parametrize("enveloped", [False, True])
    def test_answers_with_pictures(self, fleet: Fleet, enveloped: bool) -> None:
        answer = post(fleet, "/prompt", {"auth_data": {}, "payload": VALUES} if enveloped else VALUES)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        (image,) = body["images"]
        assert image.startswith("data:image/png;base64,")
        assert body["parameters"]["prompt"] == VALUES["prompt"]
        assert requests.get(f"{fleet.base_url}/task/{body['id']}", timeout=5).json()["status"] == "completed"

    def test_names_what_is_missing(self, fleet: Fleet) -> None:
        answer = post(fleet, "/prompt", {"prompt": "x", "width": 256})
        assert answer.status_code == 422
        assert answer.json() == dict.fromkeys(("height", "steps", "seed"), "missing parameter")

    @pytest.mark.parametrize(
        ("change", "word"), [({"steps": "many"}, "steps"), ({"width": -1}, "width"), ({"no_such": 1}, "no_such")]
    )
    def test_refuses_what_does_not_fit(self, fleet: Fleet, change: dict[str, Any], word: str) -> None:
        answer = post(fleet, "/prompt", {**VALUES, **change})
        assert answer.status_code == 422
        assert word in answer.json()["error"]["message"]


def test_a_form_is_a_submission_too(fleet: Fleet) -> None:
    form = {"style": "style_jp1", "room": "office", "prefix": "F", "steps": "2", "seed": "5"}
    picture = ("../my room.png", png(13, (64, 64)), "image/png")
    answer = post(fleet, "/workflows/interior_design", files={"user_img": picture}, data=form)
    assert answer.status_code == 201, answer.text
    job = fleet.wait(answer.json()["id"], "succeeded", timeout_s=60)
    assert (job["parameters"]["steps"], job["parameters"]["seed"]) == (2, 5)

    for files, data, word in (
        ({"prefix": picture}, form, "prefix"),
        ({"user_img": ("a.png", b"<html>")}, form, "not a picture"),
        ({"user_img": picture}, {**form, "steps": "many"}, "steps"),
        ({"user_img": picture}, {**form, "user_img": "b.png"}, "twice"),
    ):
        refused = post(fleet, "/workflows/interior_design", files=files, data=data)
        assert refused.status_code == 422, word
        assert word in refused.json()["error"]["message"]


def drawn(words: str) -> dict[str, Any]:
    """A request for a picture whose file will hold the words."""
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": words}},
    }
    return {"input": {"workflow_json": graph}}


class TestBuckets:
    def test_the_requests_own(self, fleet: Fleet, s3: S3Server, own_bucket: BucketTarget) -> None:
        target = s3.new_target()
        body = drawn("mine")
        body["input"]["s3"] = {
            "access_key_id": "client",
            "secret_access_key": "clients-secret",
            "endpoint_url": s3.url,
            "bucket_name": target.bucket_name,
            "prefix": "renders/today",
        }
        before = s3.content(own_bucket)

        answer = post(fleet, "/generate/sync", body)

        assert answer.status_code == 200, answer.text
        job_id = answer.json()["id"]
        names = [output["filename"] for output in answer.json()["output"]]
        assert set(s3.content(target)) == {f"renders/today/{job_id}/{name}" for name in names}
        for output in answer.json()["output"]:
            assert output["url"].startswith(f"{s3.url}/{target.bucket_name}/renders/today/")
            assert "X-Amz-Expires=604800" in output["url"]
            fetched = requests.get(output["url"], timeout=5)
            assert (
                fetched.content == requests.get(f"{fleet.base_url}/download/{output['local_path']}", timeout=5).content
            )
        assert s3.content(own_bucket) == before
        assert "secret" not in answer.text

    def test_the_operators(self, fleet: Fleet, s3: S3Server, own_bucket: BucketTarget) -> None:
        answer = post(fleet, "/generate/sync", drawn("theirs"))
        job_id = answer.json()["id"]
        assert {key.rpartition("/")[0] for key in s3.content(own_bucket) if job_id in key} == {f"ours/{job_id}"}
        assert own_bucket.bucket_name in answer.json()["output"][0]["url"]
        # Comfy API v2 has no bucket unless the client asks for one.
        job = fleet.wait(fleet.submit(drawn("v2")["input"]["workflow_json"]), "succeeded")
        assert not [key for key in s3.content(own_bucket) if job["id"] in key]

    def test_secrets_are_not_mixed(self, fleet: Fleet, s3: S3Server) -> None:
        body = drawn("x")
        body["input"]["s3"] = {"access_key_id": "client", "bucket_name": "b", "endpoint_url": s3.url}
        answer = post(fleet, "/generate/sync", body)
        assert answer.status_code == 422
        assert "s3.secret_access_key is missing" in answer.json()["detail"]

    def test_a_bucket_that_is_not_there_is_said_and_costs_no_picture(self, fleet: Fleet, s3: S3Server) -> None:
        body = drawn("lost")
        body["input"]["s3"] = {
            "access_key_id": "client",
            "secret_access_key": "clients-secret",
            "endpoint_url": s3.url,
            "bucket_name": "no-such-bucket",
        }
        answer = post(fleet, "/generate/sync", body)
        assert answer.status_code == 200
        result = answer.json()
        assert "2 of 2 files could not be uploaded" in result["message"]
        for output in result["output"]:
            assert "NoSuchBucket" in output["upload_error"]
            assert requests.get(output["url"], timeout=5).content.startswith(b"\x89PNG")


class TestFormats:
    def test_webp_without_metadata(self, fleet: Fleet) -> None:
        body = drawn("secret-words")
        body["input"] |= {"convert_output": {"format": "webp", "quality": 70}, "strip_metadata": True}
        body["input"]["return_outputs_as_base64"] = True
        result = post(fleet, "/generate/sync", body).json()
        for output in result["output"]:
            assert output["filename"].endswith(".webp")
            assert output["mimetype"] == "image/webp"
            content = base64.b64decode(output["data"])
            assert content[8:12] == b"WEBP"
            assert b"EmptyImage" not in content

    def test_metadata_is_kept_unless_it_is_not_wanted(self, fleet: Fleet) -> None:
        graph = drawn("words")["input"]["workflow_json"]
        kept = fleet.wait(fleet.submit(graph), "succeeded")["outputs"][0]
        stripped = fleet.wait(fleet.submit(graph, strip_metadata=True), "succeeded")["outputs"][0]
        before, after = (requests.get(output["url"], timeout=5).content for output in (kept, stripped))
        assert b"EmptyImage" in before
        assert b"EmptyImage" not in after
        assert pixel(before) == pixel(after)
        assert (stripped["size_bytes"], stripped["hash"]) == (len(after), hash_of(after))
