"""What the API asks a bucket for that is the storage: for each submission as little as it can, and side by side."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bucket_fleet import BUCKET, bucket_settings
from tests.faulty_bucket import Asked, Fault, FaultyBucket, faulty_bucket
from tests.integration.api.comfy_v2.test_assets import png
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.s3_server import S3Server

SLOW_S = 0.4


@dataclass(frozen=True)
class Beside:
    """An API, and the front that its bucket is behind."""

    api: Api
    front: FaultyBucket

    def asked(self) -> list[str]:
        """What was asked for since the last time, but for looks whether the bucket is there."""
        found = [(asked.method, asked.key.split("/")[1:2]) for asked, _ in self.front.seen]
        self.front.seen.clear()
        return [f"{method} {area[0]}" for method, area in found if area and area[0] != "fleet-storage"]

    def upload(self, content: bytes) -> str:
        answer = self.api.post("/api/v2/assets", files={"file": ("a.png", content)}, data={"file_path": "a.png"})
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["id"])

    def submit(self, *images: str) -> str:
        self.api.worker.beat()
        answer = self.api.post("/api/v2/jobs", {"workflow": loading(*images)})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    server.empty(BUCKET)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def running(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    with faulty_bucket(s3.port) as front:
        settings = settings_for(tmp_path_factory.mktemp("api"), **bucket_settings(front.url))
        with running_api(settings) as api:
            api.worker.come_up()
            yield Beside(api, front)


@pytest.fixture
def beside(running: Beside) -> Beside:
    running.front.rule = lambda _asked: None
    running.asked()
    return running


def loading(*images: Any) -> dict[str, Any]:
    nodes = {f"1{n}": {"class_type": "LoadImage", "inputs": {"image": image}} for n, image in enumerate(images)}
    return {"1": {"class_type": "LoadImage", "inputs": {"image": images[0]}}, "2": GRAPH["2"], **nodes}


def data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def slow(_asked: Asked) -> Fault | None:
    time.sleep(SLOW_S)
    return None


def test_a_new_file_is_looked_for_and_sent_and_one_that_is_known_only_looked_for(beside: Beside) -> None:
    beside.upload(png(11))
    assert beside.asked() == ["HEAD inputs", "PUT inputs"]
    beside.upload(png(11))
    sent_bytes = beside.front.sent_bytes()
    assert (sorted(beside.asked()), sent_bytes) == (["HEAD inputs", "PUT touched"], 0)


def test_a_submission_with_a_known_picture_asks_for_nothing(beside: Beside) -> None:
    asset = beside.upload(png(12))
    beside.asked()

    for _ in range(2):
        beside.submit(asset)

    assert beside.asked() == []


def test_a_picture_of_which_nobody_knows_is_looked_into_once(beside: Beside, tmp_path: Path) -> None:
    asset = beside.upload(png(13))
    # As an earlier version, or a direct upload, has left it.
    known = beside.api.ledger.input_files.get(asset)
    beside.api.ledger.input_files.note_checked(known.storage_key, beside.api.settings.max_image_pixels + 1)
    beside.asked()

    beside.submit(asset)
    assert beside.asked() == ["GET inputs"]
    beside.submit(asset)
    assert beside.asked() == []


def test_an_earlier_output_becomes_an_input_within_the_bucket(beside: Beside, s3: S3Server) -> None:
    content = png(14)
    first = beside.api.submit()
    beside.api.worker.run(first, content)
    [output] = beside.api.get(f"/api/v2/jobs/{first}").json()["outputs"]
    beside.asked()

    second = beside.submit(output["id"])

    sent_bytes = beside.front.sent_bytes()
    # Its first bytes tell how large a picture it is.
    assert sorted(beside.asked()) == ["GET outputs", "HEAD inputs", "HEAD outputs", "HEAD outputs", "PUT inputs"]
    assert sent_bytes == 0, "the bucket copies it"
    [file] = beside.api.worker.claim(second).inputs
    found = s3.client.get_object(Bucket=BUCKET, Key=f"files/inputs/{file.key}")
    assert (found["Body"].read(), found["Metadata"]) == (content, {"blake3": file.key.rpartition("/")[2]})


def test_an_output_that_is_gone_is_said_to_be(beside: Beside, s3: S3Server) -> None:
    first = beside.api.submit()
    beside.api.worker.run(first, png(15))
    [output] = beside.api.get(f"/api/v2/jobs/{first}").json()["outputs"]
    listed = s3.client.list_objects_v2(Bucket=BUCKET, Prefix=f"files/outputs/{first}/")["Contents"]
    for item in listed:
        s3.client.delete_object(Bucket=BUCKET, Key=item["Key"])

    answer = beside.api.post("/api/v2/jobs", {"workflow": loading(output["id"])})

    assert answer.status_code == 422, answer.text
    assert "the bytes of this asset are gone" in answer.text


def test_an_output_that_is_no_picture_is_refused_where_one_is_loaded(beside: Beside) -> None:
    first = beside.api.submit()
    beside.api.worker.run(first, b"no picture at all")
    [output] = beside.api.get(f"/api/v2/jobs/{first}").json()["outputs"]

    answer = beside.api.post("/api/v2/jobs", {"workflow": loading(output["id"])})

    assert answer.status_code == 422, answer.text
    assert "is not a picture that can be read" in answer.text


def test_the_files_of_one_submission_come_side_by_side(beside: Beside) -> None:
    beside.upload(png(16))
    beside.asked()
    beside.front.rule = slow
    began_s = time.monotonic()

    beside.submit(*(data_uri(png(20 + number)) for number in range(4)))

    took_s = time.monotonic() - began_s
    # One after the other they would take eight requests' time and more.
    assert 2 * SLOW_S <= took_s < 6 * SLOW_S
    assert sorted(beside.asked()) == ["HEAD inputs"] * 4 + ["PUT inputs"] * 4
