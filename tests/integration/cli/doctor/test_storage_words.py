"""A bucket that cannot be used: one line that says what to change, by `comfyline doctor` and at the start of a process.

What jobs say of it is in `tests/faults/test_bucket_faults.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bucket_fleet import BUCKET, bucket_settings
from tests.faulty_bucket import Asked, Fault, faulty_bucket
from tests.fleet import Fleet
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

#: What is wrong, with which requests, and the words for it.
TROUBLES: dict[str, tuple[Fault, Callable[[Asked], bool], str]] = {
    "wrong credentials": (
        Fault(status=403, code="InvalidAccessKeyId"),
        lambda _asked: True,
        "does not take the credentials: check COMFYLINE_STORAGE_ACCESS_KEY_ID and its secret",
    ),
    "missing bucket": (
        Fault(status=404, code="NoSuchBucket"),
        lambda _asked: True,
        "there is no such bucket: make it, or correct COMFYLINE_STORAGE_URL and its endpoint",
    ),
    "wrong region": (
        Fault(status=400, code="AuthorizationHeaderMalformed", more="<Region>eu-west-1</Region>"),
        lambda _asked: True,
        "the bucket is in another region (eu-west-1): set COMFYLINE_STORAGE_REGION",
    ),
    "no write rights": (
        Fault(status=403, code="AccessDenied"),
        lambda asked: asked.writes,
        "the credentials do not permit this (PutObject: 403 AccessDenied)",
    ),
}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    server.empty(BUCKET)
    yield server
    server.stop()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_doctor_and_a_start_say_in_one_line_what_to_change(trouble: str, s3: S3Server, tmp_path: Path) -> None:
    fault, concerns, words = TROUBLES[trouble]
    with faulty_bucket(s3.port) as front:
        front.rule = lambda asked: fault if concerns(asked) else None
        settings = bucket_settings(front.url) | {"simulated_gpus": "1", "host": "here"}
        fleet = Fleet(tmp_path, **settings)
        fleet.data_dir.mkdir(mode=0o700)

        said = json.loads(fleet.command("doctor", "--json").stdout)["findings"]
        [storage] = [finding for finding in said if finding["subject"] == "storage"]
        assert storage["mark"] == "wrong", storage
        assert words in storage["text"]
        assert "\n" not in storage["text"]

        for command in ("io", "gpu"):
            ended = fleet.command(command)
            assert ended.returncode == 2, ended
            [line] = [line for line in ended.stderr.splitlines() if f"s3://{BUCKET}/files" in line]
            assert words in line
            assert "Traceback" not in ended.stderr
