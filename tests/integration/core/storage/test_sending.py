"""Large files on their way into a bucket: processes killed in the middle, uploads that somebody has ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from core.settings import Settings
from core.storage.folders import BucketFault
from core.storage.objects import S3Storage
from core.storage.placing import LocalFile
from core.storage.sending import LARGE_BYTES, PART_BYTES, PARTS_AT_ONCE
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.faulty_bucket import Asked, Fault, FaultyBucket, faulty_bucket
from tests.fleet import ROOT
from tests.s3_server import S3Server
from tests.waiting import until

MIB = 1024 * 1024
SIZE_BYTES = 80 * MIB
KEY = "job/film.mp4"

SENDING = """
import sys
from pathlib import Path
from core.settings import load_settings
from core.storage.backend import output_storage
from core.storage.placing import LocalFile

path = Path(sys.argv[1])
file = LocalFile(key="job/film.mp4", path=path, digest="blake3:" + sys.argv[2], content_type="video/mp4")
output_storage(load_settings()).keep([file])
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def front(s3: S3Server) -> Iterator[FaultyBucket]:
    s3.empty(BUCKET)
    with faulty_bucket(s3.port) as front:
        yield front


@pytest.fixture
def storage(front: FaultyBucket, tmp_path: Path) -> S3Storage:
    values: dict[str, Any] = bucket_settings(front.url)
    return S3Storage(Settings(data_dir=tmp_path / "data", **values), "outputs")


@pytest.fixture
def film(tmp_path: Path) -> LocalFile:
    return made(tmp_path / "film.mp4", SIZE_BYTES)


def made(path: Path, size_bytes: int) -> LocalFile:
    content = os.urandom(size_bytes)
    path.write_bytes(content)
    digest = f"blake3:{blake3(content).hexdigest()}"
    return LocalFile(key=KEY, path=path, digest=digest, content_type="video/mp4")


def parts_of(asked: Asked) -> bool:
    return asked.is_part


def is_whole(s3: S3Server, file: LocalFile) -> bool:
    found = s3.client.get_object(Bucket=BUCKET, Key=f"files/outputs/{KEY}")
    is_named = found["Metadata"]["blake3"] == file.digest.removeprefix("blake3:")
    return bool(is_named and found["ContentType"] == "video/mp4" and found["Body"].read() == file.path.read_bytes())


def unfinished(s3: S3Server) -> list[str]:
    return [begun["Key"] for begun in s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())]


def begun(front: FaultyBucket, folder: Path, film: LocalFile) -> subprocess.Popen[bytes]:
    """A process that sends the film."""
    settings = {"data_dir": str(folder / "data"), **bucket_settings(front.url)}
    environment = {f"COMFYLINE_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-c", SENDING, str(film.path), film.digest.removeprefix("blake3:")]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})


def spoil_a_part(s3: S3Server) -> None:
    """Have the server hold something else of one of the parts that it has taken."""
    [upload] = s3.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    place = {"Bucket": BUCKET, "Key": upload["Key"], "UploadId": upload["UploadId"]}
    number = s3.client.list_parts(**place)["Parts"][0]["PartNumber"]
    s3.client.upload_part(**place, PartNumber=number, Body=b"x" * PART_BYTES)


def test_processes_that_are_killed_again_and_again_send_only_what_was_under_way_twice(
    s3: S3Server, front: FaultyBucket, tmp_path: Path, film: LocalFile
) -> None:
    front.bytes_per_s = 20 * MIB
    for number, killed_at in enumerate((0.4, 0.8), start=1):
        process = begun(front, tmp_path, film)
        try:
            until(
                lambda at=killed_at: front.sent_bytes(parts_of) > at * SIZE_BYTES,  # type: ignore[misc]
                what="some of it",
                timeout_s=60,
            )
        finally:
            process.kill()
            process.wait()
        assert unfinished(s3) == [f"files/outputs/{KEY}"], number
    front.bytes_per_s = None

    process = begun(front, tmp_path, film)

    assert process.wait(60) == 0
    twice_bytes = front.sent_bytes(parts_of) - SIZE_BYTES
    # Of each kill: one part for each connection, of which one was sent to less than its end.
    assert 0 <= twice_bytes < 2 * PARTS_AT_ONCE * PART_BYTES
    assert is_whole(s3, film)
    assert unfinished(s3) == []
    assert list((tmp_path / "data" / "sending").iterdir()) == []


def interrupted(front: FaultyBucket, storage: S3Storage, film: LocalFile, *, after: int) -> int:
    """Have the bucket be full after so many parts; returns the bytes of those that it took."""
    taken: list[Asked] = []

    def rule(asked: Asked) -> Fault | None:
        if asked.is_part and len(taken) >= after:
            return Fault(status=507, code="XMinioStorageFull")
        taken.extend([asked] if asked.is_part else [])
        return None

    front.rule = rule
    with pytest.raises(BucketFault, match="bucket is full"):
        storage.keep([film])
    front.rule = lambda _asked: None
    front.seen.clear()
    return after * PART_BYTES


def test_what_a_bucket_took_before_it_was_full_is_not_sent_again(
    s3: S3Server, front: FaultyBucket, storage: S3Storage, film: LocalFile
) -> None:
    taken_bytes = interrupted(front, storage, film, after=6)

    storage.keep([film])

    assert front.sent_bytes(parts_of) == SIZE_BYTES - taken_bytes
    assert is_whole(s3, film)


def test_parts_that_the_server_holds_otherwise_are_sent_again(
    s3: S3Server, front: FaultyBucket, storage: S3Storage, film: LocalFile
) -> None:
    taken_bytes = interrupted(front, storage, film, after=3)
    spoil_a_part(s3)

    storage.keep([film])

    assert front.sent_bytes(parts_of) == SIZE_BYTES - taken_bytes + PART_BYTES
    assert is_whole(s3, film)


def test_an_upload_that_was_aborted_meanwhile_is_begun_anew(
    s3: S3Server, front: FaultyBucket, storage: S3Storage, film: LocalFile
) -> None:
    interrupted(front, storage, film, after=3)
    s3.empty(BUCKET)

    storage.keep([film])

    assert front.sent_bytes(parts_of) == SIZE_BYTES
    assert is_whole(s3, film)


def test_another_file_under_the_same_key_goes_on_with_nothing(
    s3: S3Server, front: FaultyBucket, storage: S3Storage, film: LocalFile, tmp_path: Path
) -> None:
    interrupted(front, storage, film, after=3)
    other = made(tmp_path / "other.mp4", SIZE_BYTES)

    storage.keep([other])

    assert is_whole(s3, other)
    assert unfinished(s3) == []


@pytest.mark.parametrize("left", ["", "no JSON", "[]", '{"upload_id": "x"}', '{"upload_id": "x", "name": 1}\n[1'])
def test_a_record_that_a_power_cut_spoiled(
    s3: S3Server, front: FaultyBucket, storage: S3Storage, film: LocalFile, tmp_path: Path, left: str
) -> None:
    interrupted(front, storage, film, after=3)
    [record] = (tmp_path / "data" / "sending").iterdir()
    record.write_text(left)

    storage.keep([film])

    assert is_whole(s3, film)


def test_a_record_whose_last_line_is_half_a_line_serves(
    s3: S3Server, front: FaultyBucket, storage: S3Storage, film: LocalFile, tmp_path: Path
) -> None:
    taken_bytes = interrupted(front, storage, film, after=3)
    [record] = (tmp_path / "data" / "sending").iterdir()
    assert [json.loads(line) for line in record.read_text().splitlines()], "as it is written"
    record.write_text(record.read_text()[:-10])

    storage.keep([film])

    # The part of that line is known by its MD5.
    assert front.sent_bytes(parts_of) == SIZE_BYTES - taken_bytes
    assert is_whole(s3, film)


def test_parts_that_nobody_wrote_down_are_told_by_what_they_hold(
    s3: S3Server, front: FaultyBucket, storage: S3Storage, film: LocalFile, tmp_path: Path
) -> None:
    taken_bytes = interrupted(front, storage, film, after=3)
    [record] = (tmp_path / "data" / "sending").iterdir()
    record.write_text(record.read_text().splitlines(keepends=True)[0])
    spoil_a_part(s3)

    storage.keep([film])

    assert front.sent_bytes(parts_of) == SIZE_BYTES - taken_bytes + PART_BYTES
    assert is_whole(s3, film)


def test_an_answer_that_was_lost_does_not_fail_what_is_there(
    s3: S3Server, front: FaultyBucket, storage: S3Storage, film: LocalFile
) -> None:
    """The server puts the object together, its answer does not come, and the next question finds no such upload."""
    asked_once: list[Asked] = []

    def rule(asked: Asked) -> Fault | None:
        if asked.method != "POST" or "uploadId=" not in asked.query:
            return None
        if asked_once:
            return Fault(status=404, code="NoSuchUpload")
        asked_once.append(asked)
        upload = s3.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"][0]
        place = {"Bucket": BUCKET, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        parts = [
            {name: part[name] for name in ("PartNumber", "ETag")} for part in s3.client.list_parts(**place)["Parts"]
        ]
        s3.client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
        return Fault(status=500, code="InternalError")

    front.rule = rule

    storage.keep([film])

    assert asked_once
    assert is_whole(s3, film)


def test_a_large_file_that_is_there_is_not_sent_again(
    s3: S3Server, front: FaultyBucket, storage: S3Storage, film: LocalFile, tmp_path: Path
) -> None:
    storage.keep([film])
    front.seen.clear()

    storage.keep([film])

    assert front.sent_bytes(parts_of) == 0
    assert unfinished(s3) == []
    assert list((tmp_path / "data" / "sending").iterdir()) == []
    assert is_whole(s3, film)


def test_a_machine_whose_disk_takes_no_record_sends_all_the_same(
    s3: S3Server, front: FaultyBucket, storage: S3Storage, film: LocalFile, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "sending").touch()

    storage.keep([film])

    assert is_whole(s3, film)


def test_a_bucket_that_forgets_what_it_took_is_found_out(
    front: FaultyBucket, storage: S3Storage, tmp_path: Path
) -> None:
    files = [made(tmp_path / name, 1000) for name in ("a", "b")]
    files = [LocalFile(**{**vars(file), "key": f"job/{file.path.name}"}) for file in files]
    front.rule = lambda asked: Fault(status=200) if asked.method == "PUT" and asked.key.endswith("/b") else None

    for some in (files, files[1:]):
        with pytest.raises(BucketFault, match="has not kept"):
            storage.keep(some)

    front.rule = lambda _asked: None
    front.seen.clear()
    storage.keep(files)
    assert [asked.key for asked, _ in front.seen if asked.method == "PUT"] == ["files/outputs/job/b"]


def test_a_file_that_no_process_would_go_on_with_leaves_nothing(
    s3: S3Server, front: FaultyBucket, storage: S3Storage, tmp_path: Path
) -> None:
    draft = storage.draft()
    draft.write_bytes(b"x" * LARGE_BYTES)
    front.rule = lambda asked: Fault(status=403, code="QuotaExceeded") if "partNumber=2" in asked.query else None

    with pytest.raises(BucketFault, match="bucket is full"):
        storage.put("ab/a", draft)

    assert unfinished(s3) == []
    assert not (tmp_path / "data" / "sending").exists()
