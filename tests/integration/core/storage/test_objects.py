"""A bucket as storage: what every storage does, by several at once, killed in the middle; what it says of faults."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from blake3 import blake3

from core.settings import Settings
from core.storage import copying, object_client, object_reader, objects, sending
from core.storage.folders import FRESH_S, BucketFault, LocalStorage, content_key, is_out_of_room
from core.storage.objects import FILES_AT_ONCE, S3Storage
from core.storage.placing import LocalFile
from core.storage.sending import LARGE_BYTES
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.faulty_bucket import Asked, Fault, faulty_bucket
from tests.s3_server import Gate, S3Server, fronted

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3: S3Server) -> S3Server:
    """The server with an empty bucket."""
    s3.empty(BUCKET)
    return s3


def storage_at(url: str, folder: Path, area: str = "inputs", **more: str) -> S3Storage:
    values: dict[str, Any] = {**bucket_settings(url), **more}
    return S3Storage(Settings(data_dir=folder / "data", **values), area)


@pytest.fixture
def storage(bucket: S3Server, tmp_path: Path) -> S3Storage:
    return storage_at(bucket.url, tmp_path)


def put(storage: S3Storage, content: bytes) -> str:
    """Bring content in under its own key."""
    key = content_key(blake3(content).hexdigest())
    draft = storage.draft()
    draft.write_bytes(content)
    storage.put(key, draft)
    assert not draft.exists()
    return key


def local(key: str, file: Path) -> LocalFile:
    digest = f"blake3:{blake3(file.read_bytes()).hexdigest()}"
    return LocalFile(key=key, path=file, digest=digest, content_type="image/png")


def keep(storage: S3Storage, key: str, file: Path) -> None:
    storage.keep([local(key, file)])


def names(s3: S3Server) -> list[str]:
    return [item["Key"] for item in s3.client.list_objects_v2(Bucket=BUCKET).get("Contents", ())]


@pytest.fixture
def ages(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have every object be so many seconds old."""
    age_s = objects._age_s

    def older(seconds: float) -> None:
        monkeypatch.setattr(objects, "_age_s", lambda found: age_s(found) + seconds)

    return older


@pytest.mark.parametrize("size_bytes", [0, 1, LARGE_BYTES, 40 * MIB + 1])
def test_every_byte_comes_back_from_any_place(storage: S3Storage, tmp_path: Path, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    key = put(storage, content)

    storage.copy(key, tmp_path / "below" / "copy")
    with storage.open(key, size_bytes=size_bytes) as file:
        assert file.read() == content
        for place in (0, size_bytes // 2, max(0, size_bytes - 3)):
            file.seek(place)
            assert file.read(7) == content[place : place + 7]
    with storage.local(key) as path:
        assert path.read_bytes() == content

    assert (tmp_path / "below" / "copy").read_bytes() == content
    assert not path.exists()
    assert [entry.name for entry in (tmp_path / "below").iterdir()] == ["copy"]


def test_what_is_there_is_not_sent_again(storage: S3Storage, bucket: S3Server) -> None:
    key = put(storage, b"same")
    before = bucket.client.head_object(Bucket=BUCKET, Key=f"files/inputs/{key}")["LastModified"]
    time.sleep(1.1)

    put(storage, b"same")

    assert bucket.client.head_object(Bucket=BUCKET, Key=f"files/inputs/{key}")["LastModified"] == before
    assert list(storage.keys()) == [key]


def test_another_file_under_a_key_of_its_own_is_written_over(storage: S3Storage, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    for content in (b"half of it", b"all of what was made"):
        file.write_bytes(content)
        keep(storage, "job/a.png", file)
        with storage.open("job/a.png", size_bytes=len(content)) as found:
            assert found.read() == content
    assert file.exists()


@pytest.mark.parametrize("key", ["../secret", "job//a", "", "job/.hidden", "/a", "job/b\0"])
def test_nothing_outside_is_opened(storage: S3Storage, key: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.open(key, size_bytes=1)


def test_what_is_not_there(storage: S3Storage, tmp_path: Path) -> None:
    key = put(storage, b"four")
    for ask in (
        lambda: storage.open("ab/none", size_bytes=4),
        lambda: storage.open(key, size_bytes=5),
        lambda: storage.copy("ab/none", tmp_path / "copy"),
        lambda: storage.touch("ab/none"),
    ):
        with pytest.raises(FileNotFoundError):
            ask()
    assert storage.discard("ab/none") is False
    storage.remove_folder("none")
    assert storage.folder_age_s("none") == float("inf")


def test_folders_are_listed_and_removed_whole(storage: S3Storage, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    for key in ("one/a", "one/2/a", "other/a"):
        keep(storage, key, tmp_path / "a")
    assert sorted(storage.folders()) == ["one", "other"]
    assert -2 < storage.folder_age_s("one") < 60

    storage.remove_folder("one")

    assert list(storage.keys()) == ["other/a"]
    with pytest.raises(ValueError, match="folder name"):
        storage.remove_folder("..")


def test_an_object_that_was_changed_is_not_handed_on(storage: S3Storage, bucket: S3Server, tmp_path: Path) -> None:
    key = put(storage, b"right")
    bucket.client.put_object(
        Bucket=BUCKET, Key=f"files/inputs/{key}", Body=b"wrong", Metadata={"blake3": blake3(b"right").hexdigest()}
    )

    with pytest.raises(BucketFault, match="by its hash"):
        storage.copy(key, tmp_path / "copy")

    assert list(tmp_path.glob("*copy*")) == []


def test_what_is_young_needs_no_mark(storage: S3Storage, bucket: S3Server, ages: Callable[[float], None]) -> None:
    key = put(storage, b"young")
    put(storage, b"young")
    storage.touch(key)
    assert names(bucket) == [f"files/inputs/{key}"]
    # By the time that nobody may remove it any more it is marked again.
    ages(FRESH_S / 2)
    storage.touch(key)
    assert names(bucket) == [f"files/inputs/{key}", f"files/touched/inputs/{key}"]


def test_files_of_a_job_go_side_by_side_a_few_at_once(bucket: S3Server, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number)
    under_way, most, lock = 0, 0, threading.Lock()

    def slow(asked: Asked) -> Fault | None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.1)
        with lock:
            under_way -= 1
        return None

    with faulty_bucket(bucket.port) as front:
        front.rule = slow
        storage = storage_at(front.url, tmp_path, "outputs")
        storage.keep([local(f"job/{path.name}", path) for path in paths])
        # Doing it again sends nothing.
        front.seen.clear()
        storage.keep([local(f"job/{path.name}", path) for path in paths])
        assert not [asked for asked, _ in front.seen if asked.writes]

    assert most == FILES_AT_ONCE
    assert sorted(storage.keys()) == sorted(f"job/{path.name}" for path in paths)


def test_what_cannot_be_kept_is_told_and_the_rest_is_not_begun(bucket: S3Server, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for path in paths:
        path.write_bytes(b"x")
    with faulty_bucket(bucket.port) as front:
        front.rule = lambda asked: Fault(status=403, code="AccessDenied") if asked.method == "PUT" else None
        with pytest.raises(BucketFault, match="do not permit this"):
            storage_at(front.url, tmp_path, "outputs").keep([local(f"job/{path.name}", path) for path in paths])
        assert len([asked for asked, _ in front.seen if asked.method == "PUT"]) < len(paths)


class TestTakingOver:
    def test_no_bytes_come_by(self, bucket: S3Server, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"made")
        digest = f"blake3:{blake3(b'made').hexdigest()}"
        key = content_key(blake3(b"made").hexdigest())
        with faulty_bucket(bucket.port) as front:
            outputs = storage_at(front.url, tmp_path, "outputs")
            keep(outputs, "job/a.png", tmp_path / "a")
            front.seen.clear()
            inputs = storage_at(front.url, tmp_path)
            for _ in range(2):
                assert inputs.take_over(outputs, "job/a.png", key, size_bytes=4, digest=digest)
            copies = [asked for asked, _ in front.seen if asked.method == "PUT"]
            assert (len(copies), front.sent_bytes()) == (1, 0)
        with inputs.open(key, size_bytes=4) as file:
            assert file.read() == b"made"
        inputs.copy(key, tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == b"made"

    def test_in_parts_where_it_is_large(
        self, bucket: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = os.urandom(6 * MIB)
        monkeypatch.setattr(copying, "AT_ONCE_BYTES", MIB)
        monkeypatch.setattr(copying._PARTS, "multipart_threshold", MIB)
        monkeypatch.setattr(copying._PARTS, "multipart_chunksize", 5 * MIB)
        (tmp_path / "a").write_bytes(content)
        outputs, inputs = storage_at(bucket.url, tmp_path, "outputs"), storage_at(bucket.url, tmp_path)
        keep(outputs, "job/a.png", tmp_path / "a")
        digest = blake3(content).hexdigest()
        key = content_key(digest)
        inputs.take_over(outputs, "job/a.png", key, size_bytes=len(content), digest=f"blake3:{digest}")
        inputs.copy(key, tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == content

    def test_what_is_not_there_or_another_file(self, bucket: S3Server, tmp_path: Path) -> None:
        outputs, inputs = storage_at(bucket.url, tmp_path, "outputs"), storage_at(bucket.url, tmp_path)
        (tmp_path / "a").write_bytes(b"made")
        keep(outputs, "job/a.png", tmp_path / "a")
        digest = blake3(b"made").hexdigest()
        for source, size_bytes in (("job/b.png", 4), ("job/a.png", 5)):
            with pytest.raises(FileNotFoundError):
                inputs.take_over(outputs, source, content_key(digest), size_bytes=size_bytes, digest=f"blake3:{digest}")
        assert not inputs.take_over(
            LocalStorage(tmp_path), "job/a.png", content_key(digest), size_bytes=4, digest=f"blake3:{digest}"
        )
        assert list(inputs.keys()) == []


class TestDiscarding:
    def test_only_what_is_old_goes(self, storage: S3Storage, bucket: S3Server, ages: Callable[[float], None]) -> None:
        key = put(storage, b"x")
        assert storage.discard(key) is False
        ages(FRESH_S + 60)

        assert storage.discard(key) is True

        assert names(bucket) == []

    def test_what_was_put_or_touched_again_stays(
        self, storage: S3Storage, bucket: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = [put(storage, b"x"), put(storage, b"y"), put(storage, b"z")]
        age_s = objects._age_s
        # The objects are old, their marks are not.
        monkeypatch.setattr(objects, "_age_s", lambda found: age_s(found) + (FRESH_S if found["ContentLength"] else 0))
        storage.touch(keys[0])
        put(storage, b"y")
        draft = storage.draft()
        draft.write_bytes(b"z")
        storage.put(keys[2], draft, is_needed=True)

        assert [storage.discard(key) for key in keys] == [False, False, False]

        assert sorted(storage.keys()) == sorted(keys)
        assert not [name for name in names(bucket) if "removing" in name]

    @pytest.mark.parametrize("again", ["put", "touch"])
    def test_who_comes_in_the_middle_of_a_removal_has_the_file_in_the_end(
        self, storage: S3Storage, monkeypatch: pytest.MonkeyPatch, again: str
    ) -> None:
        """At each of the removal's requests: somebody else puts, or touches, the same file just before it."""
        age_s, steps = objects._age_s, 0
        monkeypatch.setattr(objects, "_age_s", lambda found: age_s(found) + (FRESH_S if found["ContentLength"] else 0))
        monkeypatch.setattr(objects, "REMOVER_PAUSE_S", 0.02)
        for stop_at in range(1, 12):
            key = put(storage, b"wanted")
            storage._delete(storage._mark("touched", key))
            gone = _interrupted(storage, key, stop_at, again)
            if gone is None:
                steps = stop_at
                break
            assert gone or list(storage.keys()) == [key], stop_at
        assert steps > 5, "the removal was seen through"

    def test_a_remover_that_died_holds_nobody_up(
        self, storage: S3Storage, bucket: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = put(storage, b"x")
        bucket.client.put_object(Bucket=BUCKET, Key=f"files/removing/inputs/{key}", Body=b"")
        age_s = objects._age_s
        monkeypatch.setattr(objects, "_age_s", lambda found: age_s(found) + (FRESH_S if found["ContentLength"] else 0))
        monkeypatch.setattr(objects, "REMOVER_DEAD_S", 0.5)
        monkeypatch.setattr(objects, "REMOVER_PAUSE_S", 0.05)

        put(storage, b"x")

        assert list(storage.keys()) == [key]
        assert not [name for name in names(bucket) if "removing" in name]


def _interrupted(storage: S3Storage, key: str, stop_at: int, again: str) -> bool | None:
    """Discard a file; before request number `stop_at` another thread wants it. Returns whether that one learned that it
    is gone; None: the removal has fewer requests.
    """
    calls, came, learned = 0, False, []
    head, write, delete = storage._head, storage._write, storage._delete
    other = S3Storage(storage._settings, "inputs")

    def want() -> None:
        try:
            put(other, b"wanted") if again == "put" else other.touch(key)
        except FileNotFoundError:
            learned.append(True)

    threads: list[threading.Thread] = []

    def before() -> None:
        nonlocal calls, came
        calls += 1
        if calls == stop_at:
            came = True
            threads.append(threading.Thread(target=want))
            threads[0].start()
            # As far as it gets by itself: to its end, or to where it waits for us.
            threads[0].join(0.5)

    def stepping(step: Callable[[str], Any]) -> Callable[[str], Any]:
        def after(name: str) -> Any:
            before()
            return step(name)

        return after

    stepped: Any = storage
    stepped._head, stepped._write, stepped._delete = stepping(head), stepping(write), stepping(delete)
    try:
        storage.discard(key)
    finally:
        stepped._head, stepped._write, stepped._delete = head, write, delete
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return bool(learned) if came else None


def test_many_that_put_one_file_at_once_and_one_that_removes_it(storage: S3Storage, tmp_path: Path) -> None:
    errors: list[Exception] = []

    def bring(number: int) -> None:
        try:
            own = S3Storage(storage._settings, "inputs")
            for _ in range(4):
                put(own, b"common")
                own.discard(content_key(blake3(b"common").hexdigest()))
        except Exception as exc:  # noqa: BLE001 - it is raised below
            errors.append(exc)

    threads = [threading.Thread(target=bring, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    with storage.open(content_key(blake3(b"common").hexdigest()), size_bytes=6) as file:
        assert file.read() == b"common"


def test_what_killed_uploads_left_is_swept_when_it_is_old(
    storage: S3Storage, bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for area in ("inputs", "outputs"):
        bucket.client.create_multipart_upload(Bucket=BUCKET, Key=f"files/{area}/ab/x")
    draft = storage.draft()
    draft.write_bytes(b"left behind")
    # This server says of all of them that they are from 2010.
    monkeypatch.setattr(sending, "UNFINISHED_S", 1e12)
    storage.sweep_drafts()
    storage.draft()
    assert draft.exists()
    assert len(bucket.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]) == 2
    os.utime(draft, (time.time() - FRESH_S - 1,) * 2)
    monkeypatch.setattr(sending, "UNFINISHED_S", 3600.0)
    monkeypatch.setattr(objects, "SWEEP_EVERY_S", 0.0)
    storage.sweep_drafts()
    assert len(bucket.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]) == 2, "seen for a moment only"
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + FRESH_S + 10)

    storage.sweep_drafts()
    storage.draft()

    assert not draft.exists()
    # The other area is swept by its own storage.
    left = bucket.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert [begun["Key"] for begun in left] == ["files/outputs/ab/x"]


def test_work_of_the_fleet_is_begun_by_one(storage: S3Storage, tmp_path: Path) -> None:
    twin = S3Storage(storage._settings, "inputs")
    assert [each.is_due("swept", every_s=60) for each in (storage, twin)] == [True, False]
    assert S3Storage(storage._settings, "outputs").is_due("swept", every_s=60)
    assert twin.is_due("swept", every_s=0)


def test_a_read_goes_on_where_a_connection_broke(
    storage: S3Storage, bucket: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(6 * MIB)
    key = put(storage, content)
    gate = Gate(bucket.port)
    monkeypatch.setattr(object_reader, "WINDOW_BYTES", 2 * MIB)
    try:
        with storage_at(gate.url, tmp_path).open(key, size_bytes=len(content)) as file:
            found = b"".join([file.read(MIB) for _ in range(1)])
            gate.shut()
            gate.open()
            while piece := file.read(MIB):
                found += piece
    finally:
        gate.close()

    assert found == content


def failing(storage: S3Storage, tmp_path: Path) -> list[BucketFault]:
    """What each kind of access raises; none of them takes a fault of the bucket for a file that is not there."""
    (tmp_path / "a").write_bytes(b"a")
    accesses: list[Callable[[], Any]] = [
        lambda: keep(storage, "job/a", tmp_path / "a"),
        lambda: storage.open("job/a", size_bytes=1),
        lambda: storage.copy("job/a", tmp_path / "b"),
        lambda: storage.touch("job/a"),
        lambda: list(storage.keys()),
        lambda: storage.remove_folder("job"),
    ]
    found = []
    for access in accesses:
        with pytest.raises(BucketFault) as caught:
            access()
        found.append(caught.value)
    return found


def error(status: int, code: str, more: str = "") -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message>{more}</Error>".encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def test_a_bucket_that_is_not_there(s3: S3Server, tmp_path: Path) -> None:
    storage = storage_at(s3.url, tmp_path, storage_url="s3://nowhere")
    for fault in failing(storage, tmp_path):
        assert str(fault.strerror).startswith("s3://nowhere: there is no such bucket")


@pytest.mark.parametrize(
    ("answer", "words", "is_full"),
    [
        (error(403, "InvalidAccessKeyId"), "does not take the credentials", False),
        (error(403, "AccessDenied"), "do not permit this", False),
        (error(507, "XMinioStorageFull"), "the bucket is full", True),
        (error(403, "QuotaExceeded"), "the bucket is full", True),
        (error(400, "XMinioAdminBucketQuotaExceeded"), "the bucket is full", True),
        (error(400, "EntityTooLarge"), "takes no object of this size", False),
        (error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"), "another region (eu-west-1)", False),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_what_is_refused_is_said_in_words(
    bucket: S3Server, tmp_path: Path, answer: bytes, words: str, is_full: bool, count: int
) -> None:
    paths = [tmp_path / str(number) for number in range(count)]
    for path in paths:
        path.write_bytes(b"a")
    with fronted(bucket, [answer] * 40) as front, pytest.raises(BucketFault) as caught:
        storage_at(front.url, tmp_path).keep([local(f"ab/{path.name}", path) for path in paths])

    assert words in str(caught.value.strerror)
    assert is_out_of_room(caught.value) is is_full


def test_what_a_question_without_an_answer_in_words_was_refused_for_is_asked_again(
    bucket: S3Server, tmp_path: Path
) -> None:
    said = pytest.raises(BucketFault, match="does not take the credentials")
    with fronted(bucket, [error(403, "InvalidAccessKeyId")] * 40) as front, said:
        storage_at(front.url, tmp_path).open("ab/a", size_bytes=1)


def test_a_server_that_is_away_is_given_up_soon(bucket: S3Server, tmp_path: Path) -> None:
    gate = Gate(bucket.port)
    gate.close()
    began_s = time.monotonic()
    for fault in failing(storage_at(gate.url, tmp_path), tmp_path):
        assert "S3 server" in str(fault.strerror)
    assert time.monotonic() - began_s < 60


def test_a_server_that_says_nothing_is_given_up(
    bucket: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_client, "READ_TIMEOUT_S", 0.3)
    gate = Gate(bucket.port)
    gate.delay_s = 30.0
    try:
        with pytest.raises(BucketFault, match="does not answer in time") as caught:
            storage_at(gate.url, tmp_path, storage_region="eu-west-3").open("ab/a", size_bytes=1)
    finally:
        gate.close()
    assert caught.value.errno == errno.ETIMEDOUT


def test_a_link_needs_no_key_and_says_what_it_leads_to(storage: S3Storage, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"picture")
    keep(storage, "job/a é.png", tmp_path / "a")

    link = storage.link("job/a é.png", content_type="image/png", disposition='inline; filename="a"', expires_s=60)

    assert link is not None
    answer = requests.get(link, timeout=5)
    assert (answer.content, answer.headers["Content-Type"]) == (b"picture", "image/png")
    assert answer.headers["Content-Disposition"] == 'inline; filename="a"'
    assert re.search("X-Amz-Expires=60&", link)


def test_processes_that_fork_share_no_connection(storage: S3Storage) -> None:
    put(storage, b"x")
    child = os.fork()
    if child == 0:
        os._exit(0 if storage._client is not None and len(object_client._clients) > 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
