"""A bucket that cannot serve the fleet: `comfyline doctor` and each process that starts say so in one line, and why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bucket_fleet import BUCKET, bucket_settings
from tests.faulty_bucket import Fault, FaultyBucket
from tests.fleet import Fleet
from tests.s3_server import S3Server
from tests.services import Broker

REGION = "<Region>eu-west-1</Region>"
#: What goes wrong, whether only with what is written, and what an operator is told to do.
TROUBLES = {
    "of other credentials": (Fault(status=403, code="InvalidAccessKeyId"), False, "COMFYLINE_STORAGE_ACCESS_KEY_ID"),
    "not there": (Fault(status=404, code="NoSuchBucket"), False, "make it, or correct COMFYLINE_STORAGE_URL"),
    "in another region": (
        Fault(status=400, code="AuthorizationHeaderMalformed", more=REGION),
        False,
        "another region (eu-west-1): set COMFYLINE_STORAGE_REGION",
    ),
    "read only": (Fault(status=403, code="AccessDenied"), True, "the credentials do not permit this"),
}
PROCESSES = ("api", "gpu", "io")


@pytest.fixture(scope="module")
def front() -> Iterator[FaultyBucket]:
    """A front before a bucket that is well."""
    with contextlib.ExitStack() as stack:
        server = S3Server()
        stack.callback(server.stop)
        server.empty(BUCKET)
        front = FaultyBucket(server.port)
        stack.callback(front.close)
        yield front


@pytest.fixture
def fleet(front: FaultyBucket, tmp_path: Path, shared_redis: Broker) -> Fleet:
    broker = {"broker_url": shared_redis.url, "broker_namespace": shared_redis.namespace}
    fleet = Fleet(tmp_path, simulated_gpus="1", **broker, **bucket_settings(front.url))
    fleet.data_dir.mkdir(mode=0o700)
    return fleet


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("command", ["doctor", *(pytest.param(each, marks=pytest.mark.slow) for each in PROCESSES)])
def test_a_bucket_is_told_that_is(front: FaultyBucket, fleet: Fleet, command: str, trouble: str) -> None:
    fault, is_of_writes, words = TROUBLES[trouble]
    front.rule = lambda asked: fault if asked.writes or not is_of_writes else None

    ended = fleet.command(command)

    lines = (ended.stdout + ended.stderr).splitlines()
    [told] = [line for line in lines if "The storage cannot be used. s3://fleet/files: " in line]
    assert words in told
    if command == "doctor":
        assert (ended.returncode, told[0]) == (1, "✗")
    else:
        assert (ended.returncode, told) == (2, lines[-1])
        assert all(line.startswith("comfyline: ") for line in lines)
