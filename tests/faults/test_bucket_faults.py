"""A bucket that fails in each way there is, under a whole fleet: the job waits and says why, and nothing is lost."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from blake3 import blake3
from PIL import Image

from core.records.job import DELIVERING
from core.storage.sending import PART_BYTES, PARTS_AT_ONCE
from tests.bucket_fleet import Machines, machines
from tests.faults.test_delivery_kills import Step, die
from tests.faulty_bucket import Asked, Fault, FaultyBucket
from tests.fleet import Fleet, work
from tests.ledger_moves import set_columns
from tests.services import Broker, PostgresServer
from tests.waiting import until

MIB = 1024 * 1024
AWAY = "the storage of files does not take them now."
FULL = "the storage of files is full."
REFUSES = "the storage of files refuses them."


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One way to fail."""

    fault: Fault
    #: What the job says, one of these: who asks first finds out first.
    told: tuple[str, ...]
    #: What the io worker's log says, for the operator.
    log: str
    #: Only what is written fails.
    is_of_writes: bool = True

    def rule(self, asked: Asked) -> Fault | None:
        """What becomes of a request."""
        if self.is_of_writes and not (asked.writes and "/outputs/" in asked.key):
            return None
        return self.fault


TROUBLES = {
    "full": Trouble(fault=Fault(status=507, code="XMinioStorageFull"), told=(FULL,), log="the bucket is full"),
    "over its quota": Trouble(fault=Fault(status=403, code="QuotaExceeded"), told=(FULL,), log="the bucket is full"),
    "without capacity": Trouble(
        fault=Fault(status=503, code="InsufficientCapacity"), told=(FULL,), log="the bucket is full"
    ),
    "too small for such files": Trouble(
        fault=Fault(status=400, code="EntityTooLarge"), told=(REFUSES,), log="takes no object of this size"
    ),
    "read only": Trouble(
        fault=Fault(status=403, code="AccessDenied"), told=(REFUSES,), log="the credentials do not permit this"
    ),
    "forgetful": Trouble(fault=Fault(status=200), told=(AWAY,), log="has not kept an object that it took"),
    "overloaded": Trouble(fault=Fault(status=503, code="SlowDown"), told=(AWAY,), log="the S3 server fails"),
    "broken": Trouble(fault=Fault(status=500, code="InternalError"), told=(AWAY,), log="the S3 server fails"),
    "gone": Trouble(
        fault=Fault(status=404, code="NoSuchBucket"), told=(AWAY,), log="there is no such bucket", is_of_writes=False
    ),
    "of other credentials": Trouble(
        fault=Fault(status=403, code="InvalidAccessKeyId"),
        told=(AWAY, REFUSES),
        log="does not take the credentials",
        is_of_writes=False,
    ),
    "in another region": Trouble(
        fault=Fault(status=400, code="AuthorizationHeaderMalformed", more="<Region>eu-west-1</Region>"),
        told=(AWAY,),
        log="another region (eu-west-1): set COMFYLINE_STORAGE_REGION",
        is_of_writes=False,
    ),
}


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: Broker, postgres: PostgresServer
) -> Iterator[Machines]:
    more: dict[str, Any] = {"host_lost_s": "600", "max_upload_bytes": str(200 * MIB), "max_image_bytes": str(200 * MIB)}
    with machines(tmp_path_factory.mktemp("faults"), shared_redis, postgres.create(), **more) as fleet:
        yield fleet


@pytest.fixture
def whole(fleet: Machines) -> Machines:
    """The fleet with all of its processes and a bucket that is well."""
    fleet.front.rule = lambda _asked: None
    fleet.front.bytes_per_s = None
    for host in (fleet.one, fleet.two):
        for name in ("gpu0", "io"):
            if name not in host.processes:
                host.start(name)
    fleet.api.ready(gpus=2, timeout_s=60)
    return fleet


def host_of(whole: Machines, job_id: str) -> Fleet:
    instance = whole.ledger.jobs.get(job_id).instance or ""
    return {"gpu0@one": whole.one, "gpu0@two": whole.two}[instance]


def told(whole: Machines, job_id: str) -> str | None:
    """What a job says of its outputs that wait; None: nothing yet."""
    message = str(whole.api.job(job_id)["progress"]["message"])
    return message.partition("wait to be stored: ")[2] or None


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_job_waits_for_a_bucket_that_is(whole: Machines, trouble: str) -> None:
    case = TROUBLES[trouble]
    job_id = whole.api.submit(work(1.0, seed=list(TROUBLES).index(trouble)))
    until(lambda: whole.ledger.jobs.get(job_id).status == "running", what="its start")
    logs = {host: len(host.log("io")) for host in (whole.one, whole.two)}
    whole.front.rule = case.rule

    reason = until(lambda: told(whole, job_id), what="the reason on the job", timeout_s=60)

    assert reason in case.told
    assert whole.ledger.jobs.get(job_id).status == DELIVERING
    host = host_of(whole, job_id)
    assert case.log in until(
        lambda: case.log in host.log("io")[logs[host] :] and host.log("io"), what="a line for the operator"
    )
    whole.front.rule = lambda _asked: None

    def succeeded() -> bool:
        # Without this another turn comes after 15 s.
        set_columns(whole.ledger, job_id, updated_at_ms=1)
        return bool(whole.api.job(job_id)["status"] == "succeeded")

    until(succeeded, what="its end", timeout_s=60)
    job = whole.api.job(job_id)
    assert (job["attempt"], job["losses"]) == (1, [])
    assert whole.api.picture(job).startswith(b"\x89PNG")


def noise(megapixels: int) -> bytes:
    """A picture that no format makes smaller: three bytes a pixel."""
    data = io.BytesIO()
    Image.frombytes("RGB", (1000, 1000 * megapixels), os.urandom(3_000_000 * megapixels)).save(data, "PNG")
    return data.getvalue()


def test_an_io_worker_that_is_killed_in_a_large_upload_goes_on_where_it_was(whole: Machines) -> None:
    files, form = {"file": ("a.png", noise(12))}, {"file_path": "a.png"}
    asset = requests.post(f"{whole.api.base_url}/api/v2/assets", files=files, data=form, timeout=60).json()
    graph: dict[str, Any] = {
        "1": {"class_type": "LoadImage", "inputs": {"image": asset["id"]}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "large"}},
    }
    whole.front.seen.clear()
    whole.front.bytes_per_s = 6 * MIB
    job_id = whole.api.submit(graph)

    def is_part(asked: Asked) -> bool:
        return asked.is_part and job_id in asked.key

    until(lambda: whole.front.sent_bytes(is_part) > 20 * MIB, what="some of it", timeout_s=90)
    host = host_of(whole, job_id)
    host.kill("io")
    whole.front.bytes_per_s = None
    set_columns(whole.ledger, job_id, updated_at_ms=1)
    host.start("io")

    job = whole.api.wait(job_id, "succeeded", timeout_s=90)

    [output] = job["outputs"]
    assert output["size_bytes"] > 30 * MIB
    assert 0 <= whole.front.sent_bytes(is_part) - output["size_bytes"] <= PARTS_AT_ONCE * PART_BYTES
    content = whole.api.picture(job)
    assert f"blake3:{blake3(content).hexdigest()}" == output["hash"]
    assert not [*(host.data_dir / "sending").iterdir()]


#: Just before this call of the io worker that looks at a file.
STEPS: dict[str, Step] = {
    "before it is read": ("core/storage/checking.py", "_read", 1),
    "before it has its place": ("core/storage/direct_uploads.py", "accept", 1),
    "before it is recorded": ("core/ledger/direct_uploads.py", "finish", 1),
    "after it was recorded": ("core/storage/direct_uploads.py", "discard", 1),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_file_sent_into_the_bucket_is_an_asset_whose_io_worker_is_killed(whole: Machines, step: str) -> None:
    content = os.urandom(70 * MIB)
    digest = f"blake3:{blake3(content).hexdigest()}"
    base = f"{whole.api.base_url}/api/v2/assets/uploads"
    upload = requests.post(base, json={"size_bytes": len(content)}, timeout=20).json()
    for part in upload["parts"]:
        start = (part["number"] - 1) * upload["part_bytes"]
        sent = requests.put(part["url"], data=content[start : start + part["size_bytes"]], timeout=60)
        assert sent.status_code == 200
    for host in (whole.one, whole.two):
        host.stop("io")
    finish = {"hash": digest, "file_path": "large.bin"}
    answer = requests.post(f"{base}/{upload['id']}/finish", json=finish, timeout=20)
    assert (answer.status_code, answer.json()["status"]) == (202, "checking")
    die(whole.one, STEPS[step])
    # As if its time with the file were over.
    whole.ledger.direct_uploads.hold(upload["id"], lease_s=-1)

    whole.two.start("io")

    def finished() -> dict[str, Any] | None:
        found: dict[str, Any] = requests.get(f"{base}/{upload['id']}", timeout=20).json()
        return found if found["status"] == "finished" else None

    asset = until(finished, what="an asset", timeout_s=60)["asset"]
    assert (asset["hash"], asset["size_bytes"], asset["file_path"]) == (digest, len(content), "large.bin")
    assert requests.get(asset["url"], timeout=60).content == content


def test_no_bytes_of_such_a_file_pass_the_api(whole: Machines) -> None:
    """Counted at the bucket: the API's process asks for none of the file."""
    content = os.urandom(20 * MIB)
    base = f"{whole.api.base_url}/api/v2/assets/uploads"
    upload = requests.post(base, json={"size_bytes": len(content)}, timeout=20).json()
    requests.put(upload["url"], data=content, timeout=60)
    for host in (whole.one, whole.two):
        host.stop("io")
    whole.front.seen.clear()

    finish = {"hash": f"blake3:{blake3(content).hexdigest()}", "file_path": "large.bin"}
    assert requests.post(f"{base}/{upload['id']}/finish", json=finish, timeout=20).status_code == 202

    assert reads_of(whole.front, upload["id"]) == []


def reads_of(front: FaultyBucket, upload_id: str) -> list[Asked]:
    return [asked for asked, _ in front.seen if asked.method == "GET" and upload_id in asked.key]
