"""Rows of files that clients send into the bucket: each status is taken once, and one process checks at a time."""

from __future__ import annotations

import pytest

from core.errors import NotFound
from core.ledger.input_files import InputFile
from core.records.direct_upload import CHECKING, FINISHED, REFUSED, SENDING, Claimed, DirectUpload
from tests.makers import BrokerlessRuntime, StoppedClock

CLAIMED = Claimed(hash="blake3:" + "1" * 64, name="a.bin", content_type="a/b", lifetime_s=60.5)


def made(runtime: BrokerlessRuntime, clock: StoppedClock, upload_id: str = "u1") -> DirectUpload:
    upload = DirectUpload(
        id=upload_id, status=SENDING, size_bytes=25, part_bytes=10, multipart_id="m", created_at_ms=clock.now_ms
    )
    runtime.ledger.direct_uploads.add(upload)
    return upload


def file(file_id: str) -> InputFile:
    return InputFile(
        id=file_id,
        hash=CLAIMED.hash,
        name="a.bin",
        content_type="a/b",
        size_bytes=25,
        storage_key="11/1",
        created_at_ms=0,
        expires_at_ms=2**52,
    )


def test_the_parts_of_a_file() -> None:
    upload = DirectUpload(id="u", status=SENDING, size_bytes=25, part_bytes=10, multipart_id="m", created_at_ms=0)
    assert upload.parts() == {1: 10, 2: 10, 3: 5}
    whole = DirectUpload(id="u", status=SENDING, size_bytes=25, part_bytes=0, multipart_id=None, created_at_ms=0)
    assert whole.parts() == {}


def test_an_upload_from_its_beginning_to_its_end(runtime: BrokerlessRuntime, clock: StoppedClock) -> None:
    rows = runtime.ledger.direct_uploads
    upload = made(runtime, clock)
    assert rows.get("u1") == upload
    assert rows.claim("u1", lease_s=60) is None, "it is still being sent"
    rows.sent("u1", CLAIMED)
    assert (rows.get("u1").status, rows.get("u1").claimed) == (CHECKING, CLAIMED)
    assert (rows.due(), rows.checking()) == (["u1"], {"u1"})

    rows.finish("u1", file("f1"), is_new=True)
    rows.finish("u1", file("f2"), is_new=False)
    rows.refuse("u1", "hash_mismatch", "no")

    ended = rows.get("u1")
    assert (ended.status, ended.file_id, ended.is_new, ended.error) == (FINISHED, "f1", True, None)
    assert runtime.ledger.input_files.get("f1").name == "a.bin"
    with pytest.raises(NotFound):
        runtime.ledger.input_files.get("f2")
    assert (rows.due(), rows.checking()) == ([], set())


def test_what_was_refused_stays_refused(runtime: BrokerlessRuntime, clock: StoppedClock) -> None:
    rows = runtime.ledger.direct_uploads
    made(runtime, clock)
    rows.refuse("u1", "too", "early")
    rows.sent("u1", CLAIMED)
    rows.refuse("u1", "hash_mismatch", "no")
    rows.finish("u1", file("f1"), is_new=True)
    assert (rows.get("u1").status, rows.get("u1").error) == (REFUSED, ("hash_mismatch", "no"))


def test_one_checks_it_until_its_time_is_over(runtime: BrokerlessRuntime, clock: StoppedClock) -> None:
    rows = runtime.ledger.direct_uploads
    made(runtime, clock)
    rows.sent("u1", CLAIMED)
    claimed = rows.claim("u1", lease_s=60)
    assert claimed is not None
    assert claimed.claimed == CLAIMED
    assert (rows.claim("u1", lease_s=60), rows.due()) == (None, [])
    clock.pass_ms(59_000)
    assert rows.claim("u1", lease_s=60) is None
    rows.hold("u1", lease_s=60)
    clock.pass_ms(2_000)
    assert rows.claim("u1", lease_s=60) is None
    clock.pass_ms(58_000)
    assert rows.due() == ["u1"]
    assert rows.claim("u1", lease_s=60) is not None


def test_old_ones_are_those_that_nobody_has_to_check(runtime: BrokerlessRuntime, clock: StoppedClock) -> None:
    rows = runtime.ledger.direct_uploads
    for upload_id in ("u1", "u2"):
        made(runtime, clock, upload_id)
    rows.sent("u2", CLAIMED)
    clock.pass_ms(100_000)
    made(runtime, clock, "u3")
    clock.pass_ms(1_000)
    assert [each.id for each in rows.old(age_s=100, limit=10)] == ["u1"]
    assert rows.old(age_s=102, limit=10) == []
    rows.remove("u1")
    with pytest.raises(NotFound, match="u1"):
        rows.get("u1")
