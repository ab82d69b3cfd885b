"""Files put to URLs that a client has signed: by a real S3 server's rules, through fronts that fail, past the guard."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from core.buckets import presigned
from core.buckets.presigned import public_link, put
from core.errors import AddressRefused, UploadFailed, UploadRefused
from core.outbound import Policy
from core.records.bucket_target import PUT_URLS, BucketTarget
from tests.s3_server import BUSY, HALF, REFUSED, RESET, STRICT, S3Server, dripping, fronted
from tests.waiting import PATIENCE

LOOPBACK = Policy(allowed=(ip_network("127.0.0.0/8"),))
MIB = 1024 * 1024
TARGET = BucketTarget(endpoint_url=None, bucket_name="", region=None, prefix="", origin=PUT_URLS)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """An S3 server for the tests of this file."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further tries come at once."""
    monkeypatch.setattr(presigned, "PAUSE_S", 0.0)


def file_of(folder: Path, size_bytes: int) -> Path:
    path = folder / "a.png"
    path.write_bytes(os.urandom(size_bytes))
    return path


def send(
    url: str, path: Path, *, target: BucketTarget = TARGET, policy: Policy = LOOPBACK, limit_s: float = 20.0
) -> None:
    put(url, path, content_type="image/png", target=target, policy=policy, limit_s=limit_s)


@pytest.mark.parametrize("size_bytes", [0, 1, 5 * MIB - 1, 5 * MIB + 1])
def test_every_byte_arrives(server: S3Server, tmp_path: Path, size_bytes: int) -> None:
    path = file_of(tmp_path, size_bytes)
    with fronted(server, [STRICT] * 9) as front:
        bucket = server.new_target()
        url = server.signed_put(bucket, "x/a.png", at=front.url)

        send(url, path)
        send(url, path)

    assert server.content(bucket) == {"x/a.png": path.read_bytes()}
    kept = server.client.head_object(Bucket=bucket.bucket_name, Key="x/a.png")
    assert kept["ContentType"] == "image/png"
    assert all(f"content-length: {size_bytes}\r\n".encode() in head.lower() for head in front.heads)


def test_what_passes_is_tried_again(server: S3Server, tmp_path: Path) -> None:
    path = file_of(tmp_path, MIB)
    for faults in ([BUSY, BUSY], [RESET, HALF]):
        with fronted(server, faults) as front:
            bucket = server.new_target()
            send(server.signed_put(bucket, "a", at=front.url), path)
            assert len(front.heads) == 3
        assert server.content(bucket) == {"a": path.read_bytes()}


def test_in_the_end_it_gives_up(server: S3Server, tmp_path: Path) -> None:
    with fronted(server, [BUSY] * 9) as front, pytest.raises(UploadFailed, match="answered 503"):
        send(f"{front.url}/bucket/a", file_of(tmp_path, 9))
    assert len(front.heads) == TARGET.connect_attempts


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (REFUSED, "answered 403"),
        (b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "answered 307"),
    ],
)
def test_a_refusal_is_not_tried_again(server: S3Server, tmp_path: Path, answer: bytes, words: str) -> None:
    with fronted(server, [answer] * 9) as front, pytest.raises(UploadRefused) as caught:
        send(f"{front.url}/bucket/a?X-Amz-Signature=hush", file_of(tmp_path, 9))

    assert caught.value.message == f"the server behind a put_url {words}"
    assert len(front.heads) == 1


def test_a_server_that_drips_does_not_hold_us(tmp_path: Path) -> None:
    with dripping() as url:
        began_s = time.monotonic()
        with pytest.raises(UploadFailed, match="too slow"):
            send(url, file_of(tmp_path, 9), limit_s=0.5)
    assert time.monotonic() - began_s < 5 * PATIENCE


def test_a_private_address_is_refused(server: S3Server, tmp_path: Path) -> None:
    with fronted(server, []) as front:
        with pytest.raises(AddressRefused):
            send(f"{front.url}/bucket/a", file_of(tmp_path, 9), policy=Policy())
        assert front.heads == []


def test_a_public_address_is_that_of_the_object() -> None:
    url = "https://bucket.example/x/a%20b.png?X-Amz-Signature=hush"
    public = BucketTarget(**{**vars(TARGET), "public_url": "https://cdn.example/pictures"})

    assert public_link(url, public) == "https://cdn.example/pictures/x/a%20b.png"
    assert public_link(url, TARGET) is None
