"""Uploads into a bucket: a real S3 server, fronts before it that fail, and endpoints that are no S3 at all."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from blake3 import blake3

from core.buckets import bucket as bucket_module
from core.buckets.bucket import PART_BYTES, Bucket
from core.errors import AddressRefused, UploadFailed, UploadRefused
from core.outbound import Policy
from core.records.bucket_target import Addressing, BucketTarget, Credentials
from tests.s3_server import BUSY, CREDENTIALS, HALF, REFUSED, RESET, SLOW, STRICT, S3Server, dripping, fronted
from tests.waiting import PATIENCE

LOOPBACK = Policy(allowed=(ip_network("127.0.0.0/8"),))
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """An S3 server for the tests of this file."""
    server = S3Server()
    yield server
    server.stop()


def opened(target: BucketTarget, *, limit_s: float = 30.0, credentials: Credentials = CREDENTIALS) -> Bucket:
    return Bucket(target, credentials, LOOPBACK, limit_s=limit_s)


def made(folder: Path, size_bytes: int) -> Path:
    """A file of bytes that repeat nowhere soon."""
    path = folder / "picture.png"
    path.write_bytes(os.urandom(min(size_bytes, MIB)) * (size_bytes // MIB + 1))
    os.truncate(path, size_bytes)
    return path


def put(bucket: Bucket, target: BucketTarget, path: Path) -> str:
    key = f"{target.prefix}/job/{path.name}"
    bucket.upload(key, path, content_type="image/png", digest=f"blake3:{blake3(path.read_bytes()).hexdigest()}")
    return key


def attempts(server: S3Server, path: Path, faults: list[bytes | None], **fields: Any) -> list[bytes]:
    """Upload through a front that fails; returns what each connection sent first."""
    with fronted(server, faults) as front:
        target = server.new_target(front.url, **fields)
        with opened(target) as bucket:
            key = put(bucket, target, path)
        assert server.content(target) == {key: path.read_bytes()}
        return front.heads


@pytest.mark.parametrize("size_bytes", [0, PART_BYTES, 40 * MIB])
def test_every_byte_arrives_and_its_link_works(server: S3Server, tmp_path: Path, size_bytes: int) -> None:
    target, path = server.new_target(), made(tmp_path, size_bytes)

    with opened(target) as bucket:
        key = put(bucket, target, path)
        link = bucket.link(key)

    answer = requests.get(link, timeout=10)
    assert answer.content == path.read_bytes()
    assert answer.headers["Content-Type"] == "image/png"
    assert "X-Amz-Expires=604800" in link
    assert key == "p/job/picture.png"
    assert server.unfinished(target) == []


#: What each connection meets, over and over.
SERVERS: dict[str, list[bytes | None]] = {
    "normal": [None],
    "strict": [STRICT],
    "busy": [BUSY, None],
    "resetting": [None, RESET, HALF],
    "slow": [SLOW],
}


@pytest.mark.parametrize("kind", SERVERS)
def test_bytes_are_equal_or_the_failure_is_clean(server: S3Server, tmp_path: Path, kind: str) -> None:
    for size_bytes in (0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1):
        assert arrives(server, made(tmp_path, size_bytes), SERVERS[kind]) or kind == "resetting"


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.slow
def test_100_megabytes(server: S3Server, tmp_path: Path, kind: str) -> None:
    # Parts go over several connections: with luck none of them is met by more refusals than it has tries.
    assert arrives(server, made(tmp_path, 100_000_000), SERVERS[kind]) or kind in ("busy", "resetting")


def arrives(server: S3Server, path: Path, faults: list[bytes | None]) -> bool:
    """Whether a file arrives whole; if it does not, that is one of our errors, and nothing of it stays."""
    with fronted(server, itertools.cycle(faults)) as front:
        target = server.new_target(front.url)
        try:
            with opened(target) as bucket:
                key = put(bucket, target, path)
        except UploadFailed:
            with opened(BucketTarget(**{**vars(target), "endpoint_url": server.url})) as bucket:
                bucket.clean("p/job/picture.png")
            key = None
    assert server.unfinished(target) == []
    assert server.content(target) == ({} if key is None else {key: path.read_bytes()})
    return key is not None


@pytest.mark.parametrize("size_bytes", [9, PART_BYTES + 9])
def test_a_file_that_is_there_is_not_sent_again(server: S3Server, tmp_path: Path, size_bytes: int) -> None:
    target, path = server.new_target(), made(tmp_path, size_bytes)
    server.client.put_bucket_versioning(Bucket=target.bucket_name, VersioningConfiguration={"Status": "Enabled"})

    def written() -> int:
        return len(server.client.list_object_versions(Bucket=target.bucket_name)["Versions"])

    def send() -> None:
        with opened(target) as bucket:
            put(bucket, target, path)

    send()
    send()
    assert written() == 1
    path.write_bytes(b"other")
    send()

    assert written() == 2
    assert server.content(target) == {"p/job/picture.png": b"other"}


def test_a_public_address_takes_the_place_of_a_presigned_link(server: S3Server, tmp_path: Path) -> None:
    with opened(server.new_target(public_url="https://cdn.example.com/pictures")) as bucket:
        assert bucket.link("p/job/a picture é.png") == "https://cdn.example.com/pictures/p/job/a%20picture%20%C3%A9.png"


@pytest.mark.parametrize(
    ("endpoint_url", "addressing", "link"),
    [
        (None, None, "https://bucket.s3.eu-west-1.amazonaws.com/k?"),
        (None, "path", "https://s3.eu-west-1.amazonaws.com/bucket/k?"),
        ("https://s3.example.com", None, "https://s3.example.com/bucket/k?"),
        ("https://s3.example.com", "virtual", "https://bucket.s3.example.com/k?"),
    ],
)
def test_how_a_bucket_is_addressed(endpoint_url: str | None, addressing: Addressing | None, link: str) -> None:
    target = BucketTarget(
        endpoint_url=endpoint_url, bucket_name="bucket", region="eu-west-1", prefix="", addressing=addressing
    )
    with opened(target) as bucket:
        assert bucket.link("k").startswith(link)


def test_nothing_is_sent_that_other_servers_refuse(server: S3Server, tmp_path: Path) -> None:
    for size_bytes in (9, PART_BYTES + 9):
        for head in attempts(server, made(tmp_path, size_bytes), []):
            assert b"aws-chunked" not in head
            assert b"x-amz-trailer" not in head.lower()
            assert b"x-amz-checksum" not in head.lower()
            assert b"\nexpect:" not in head.lower()


def test_what_passes_is_tried_again(server: S3Server, tmp_path: Path) -> None:
    assert len(attempts(server, made(tmp_path, 9), [BUSY, BUSY])) >= 3
    assert len(attempts(server, made(tmp_path, 9), [RESET, None, RESET])) >= 3


def test_a_connection_that_breaks_in_mid_file(server: S3Server, tmp_path: Path) -> None:
    heads = attempts(server, made(tmp_path, 8 * MIB), [None, HALF, HALF])

    assert sum(head.startswith(b"PUT") for head in heads) == 3


def test_parts_that_break_do_not_stay(server: S3Server, tmp_path: Path) -> None:
    path = made(tmp_path, 40 * MIB)
    with fronted(server, [None, None, None, *[HALF] * 20]) as front:
        target = server.new_target(front.url, connect_attempts=1)
        with opened(target) as bucket, pytest.raises(UploadFailed):
            put(bucket, target, path)
    assert server.unfinished(target) == ["p/job/picture.png"]

    direct = BucketTarget(**{**vars(target), "endpoint_url": server.url})
    with opened(direct) as bucket:
        bucket.clean("p/job/picture.png")
    assert server.unfinished(target) == []
    assert server.content(target) == {}


def test_parts_of_a_killed_process_are_removed_by_the_next_try(server: S3Server, tmp_path: Path) -> None:
    target, path = server.new_target(), made(tmp_path, PART_BYTES)
    for key in ("p/job/picture.png", "p/job/picture.png2"):
        server.client.create_multipart_upload(Bucket=target.bucket_name, Key=key)

    with opened(target) as bucket:
        put(bucket, target, path)

    # The other key is another file's.
    assert server.unfinished(target) == ["p/job/picture.png2"]


def test_a_refusal_is_no_passing_failure(server: S3Server, tmp_path: Path) -> None:
    with fronted(server, [REFUSED] * 20) as front:
        target = server.new_target(front.url)
        with opened(target) as bucket, pytest.raises(UploadRefused) as caught:
            put(bucket, target, made(tmp_path, 9))

    assert caught.value.message == "the S3 server answered 403 InvalidAccessKeyId"


def test_a_bucket_that_is_not_there(server: S3Server, tmp_path: Path) -> None:
    target = BucketTarget(endpoint_url=server.url, bucket_name="nowhere", region=None, prefix="")

    with opened(target) as bucket, pytest.raises(UploadRefused, match="404 NoSuchBucket"):
        put(bucket, target, made(tmp_path, 9))


@pytest.mark.parametrize("size_bytes", [9, PART_BYTES])
def test_an_endpoint_that_drips_does_not_hold_us(tmp_path: Path, size_bytes: int) -> None:
    with dripping() as url:
        target = BucketTarget(endpoint_url=url, bucket_name="bucket", region=None, prefix="")
        began_s = time.monotonic()
        with opened(target, limit_s=0.5) as bucket, pytest.raises(UploadFailed, match="too slow"):
            put(bucket, target, made(tmp_path, size_bytes))

    assert time.monotonic() - began_s < 5 * PATIENCE


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhigh",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 500 \xff\xfe\r\nContent-Length: 9\r\n\r\n<Error><C",
    ],
)
def test_what_is_no_s3_server_is_one_of_our_errors(server: S3Server, tmp_path: Path, answer: bytes) -> None:
    with fronted(server, [answer] * 50) as front:
        target = BucketTarget(endpoint_url=front.url, bucket_name="bucket", region=None, prefix="", connect_attempts=1)
        for size_bytes in (9, PART_BYTES):
            with opened(target, limit_s=5.0) as bucket, pytest.raises((UploadFailed, UploadRefused)) as caught:
                put(bucket, target, made(tmp_path, size_bytes))
            assert str(urlsplit(front.url).port) not in caught.value.message


#: What no server should send, in headers that somebody reads on the way.
ODD_HEADERS = [
    b"Last-Modified: Fri, 31 Feb 2026 00:00:00 GMT",
    b"Last-Modified: Wed, 21 Oct 99999999999999999999999 07:28:00 GMT",
    b"Last-Modified: Wed, 21 Oct 2015 07:28:00 +99999999999999",
    b"Last-Modified: 1e400",
    b"Last-Modified: nan",
    b"Date: Fri, 99 Feb 2026 99:00:00 GMT",
    b"Expires: Wed, 21 Oct 99999999999999999999999 07:28:00 GMT",
    b"Retry-After: " + b"9" * 400,
    b"x-amz-missing-meta: " + b"9" * 5000,
    b"x-amz-mp-parts-count: x",
    b"x-amz-object-lock-retain-until-date: 99999-01-01T00:00:00Z",
    b"Content-Length: " + b"9" * 30,
    b"Content-Length: x",
    b"Content-Encoding: gzip",
    b"Transfer-Encoding: nonsense",
]


@pytest.mark.parametrize("header", ODD_HEADERS)
@pytest.mark.parametrize("status", [b"200 OK", b"503 Slow Down", b"403 Forbidden"])
def test_headers_that_no_server_should_send_are_ignored_or_one_of_our_errors(
    server: S3Server, tmp_path: Path, status: bytes, header: bytes
) -> None:
    listed = b"<ListMultipartUploadsResult><Upload><Key>p/job/picture.png</Key><UploadId>1</UploadId>"
    listed += b"<Initiated>2026-02-31T00:00:00Z</Initiated></Upload></ListMultipartUploadsResult>"
    answer = b"HTTP/1.1 " + status + b"\r\nETag: x\r\nConnection: close\r\n" + header + b"\r\n\r\n" + listed
    with fronted(server, [answer] * 50) as front:
        target = BucketTarget(endpoint_url=front.url, bucket_name="bucket", region=None, prefix="p", connect_attempts=1)
        with opened(target, limit_s=5.0) as bucket:
            with contextlib.suppress(UploadFailed, UploadRefused):
                put(bucket, target, made(tmp_path, 9))
            bucket.clean("p/job/picture.png")
        assert front.heads


def test_nobody_there(tmp_path: Path) -> None:
    target = BucketTarget(
        endpoint_url="http://127.0.0.1:1", bucket_name="bucket", region=None, prefix="", connect_attempts=1
    )

    with opened(target) as bucket, pytest.raises(UploadFailed, match="does not answer"):
        put(bucket, target, made(tmp_path, 9))


def test_a_private_address_is_refused_once(server: S3Server, tmp_path: Path) -> None:
    with fronted(server, []) as front:
        target = server.new_target(front.url)
        for size_bytes in (9, PART_BYTES):
            with Bucket(target, CREDENTIALS, Policy(), limit_s=30) as bucket, pytest.raises(AddressRefused):
                put(bucket, target, made(tmp_path, size_bytes))

        assert front.heads == []


def test_nothing_of_this_machine_goes_into_a_request(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".aws").mkdir()
    text = "[default]\nregion = mars\naws_access_key_id = machines\naws_secret_access_key = machines\n"
    for name in ("config", "credentials"):
        (tmp_path / ".aws" / name).write_text(text + "s3 =\n  addressing_style = virtual\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.setenv(name, "machines")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    bucket_module._session.cache_clear()

    heads = attempts(server, made(tmp_path, 9), [])

    assert heads
    for head in heads:
        assert b"Credential=own-key/" in head
        assert b"/us-east-1/s3/" in head
        assert b"machines" not in head
    amazons = BucketTarget(endpoint_url=None, bucket_name="bucket", region="eu-west-1", prefix="")
    with opened(amazons) as bucket:
        assert bucket.link("k").startswith("https://bucket.s3.eu-west-1.amazonaws.com/k?")
    bucket_module._session.cache_clear()


def test_a_session_token_is_sent_and_no_secret_is(server: S3Server, tmp_path: Path) -> None:
    with fronted(server, []) as front:
        target = server.new_target(front.url)
        temporary = Credentials(access_key_id="own-key", secret_access_key="own-secret", session_token="own-token")
        with opened(target, credentials=temporary) as bucket:
            put(bucket, target, made(tmp_path, 9))

    assert all(b"own-token" in head and b"own-secret" not in head for head in front.heads)


def test_a_file_that_is_gone_is_no_fault_of_the_servers(server: S3Server, tmp_path: Path) -> None:
    target = server.new_target()

    with opened(target) as bucket, pytest.raises(FileNotFoundError):
        bucket.upload("k", tmp_path / "absent", content_type="image/png", digest="blake3:0")
