"""How fast files go into a bucket: the way an io worker sends them, against plain boto3 in the same run.

    python -m bench.uploads

Both put the same files, one after the other and in turns, into one S3 server (moto) in a process of its own on this
machine. Ours is `core.buckets.bucket`: guarded connections, a time limit, HEAD before each file, no checksum trailers.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import boto3
import requests
from blake3 import blake3
from botocore.config import Config

from bench.report import Report
from core.buckets.bucket import Bucket
from core.outbound import Policy
from core.records.bucket_target import BucketTarget, Credentials
from tests.ports import free_port

#: Of plain boto3's speed.
GOAL = 0.8
ROUNDS = 7
MIB = 1024 * 1024
#: Files of one round: name, count, bytes of each.
LOADS = (("pictures of 2 MiB", 20, 2 * MIB), ("films of 64 MiB", 1, 64 * MIB))
CREDENTIALS = Credentials(access_key_id="key", secret_access_key="secret")
BUCKET = "bench"

Send = Callable[[str, Path], None]


def main() -> int:
    """Run the bench; the exit status says whether the goal was met."""
    report = Report("bench.uploads")
    with tempfile.TemporaryDirectory() as folder, s3_server() as url:
        plain = plain_client(url)
        plain.create_bucket(Bucket=BUCKET)
        for name, count, size_bytes in LOADS:
            report.progress(name)
            paths = made(Path(folder), count, size_bytes)
            direct_s, ours_s = measured(plain, url, paths)
            megabytes = count * size_bytes / 1e6
            report.line(f"{name}: plain boto3", f"{megabytes / direct_s:.0f} MB/s")
            ratio = direct_s / ours_s
            report.line(f"{name}: ours", f"{megabytes / ours_s:.0f} MB/s")
            report.line(f"{name}: ours of plain", f"{ratio:.2f}", goal=f">= {GOAL}", met=ratio >= GOAL)
    return report.print()


def measured(plain: Any, url: str, paths: list[Path]) -> tuple[float, float]:
    """Seconds of a round each way, the median; the two take turns, so that a busy moment meets both."""
    target = BucketTarget(endpoint_url=url, bucket_name=BUCKET, region="us-east-1", prefix="")
    policy = Policy(allowed=(ip_network("127.0.0.0/8"),))
    digests = {path: f"blake3:{blake3(path.read_bytes()).hexdigest()}" for path in paths}
    direct_s, ours_s = [], []
    for number in range(ROUNDS):
        direct_s.append(timed(lambda key, path: plain.upload_file(str(path), BUCKET, key), f"plain/{number}", paths))
        with Bucket(target, CREDENTIALS, policy, limit_s=300) as bucket:
            send: Send = lambda key, path: bucket.upload(  # noqa: E731
                key, path, content_type="image/png", digest=digests[path]
            )
            ours_s.append(timed(send, f"ours/{number}", paths))
        emptied(plain)
    # The first round makes connections and fills caches.
    return statistics.median(direct_s[1:]), statistics.median(ours_s[1:])


def timed(send: Send, prefix: str, paths: list[Path]) -> float:
    """Seconds for sending every file, one after the other."""
    began_s = time.perf_counter()
    for path in paths:
        send(f"{prefix}/{path.name}", path)
    return time.perf_counter() - began_s


def emptied(client: Any) -> None:
    """Delete what a round left: the server keeps everything in memory."""
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])


def made(folder: Path, count: int, size_bytes: int) -> list[Path]:
    """Files of random bytes."""
    paths = [folder / f"{size_bytes}-{number}.png" for number in range(count)]
    for path in paths:
        path.write_bytes(os.urandom(size_bytes))
    return paths


def plain_client(url: str) -> Any:
    """boto3 as anybody would make it for a server of his own."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required", proxies={}),
    )


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server in a process of its own; yields its URL."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = Popen(command, stdout=DEVNULL, stderr=DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        ends_at_s = time.monotonic() + 20
        while time.monotonic() < ends_at_s:
            try:
                requests.get(url, timeout=2)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    sys.exit(main())
