"""How fast a bucket is as storage, outputs up and inputs down, against plain boto3; and what uploads cost the API.

    python -m bench.storage

Both move the same files, one after the other and in turns, to and from one S3 server (moto) in a process of its own on
this machine. Ours looks whether the files are there, before and afterwards, writes their hashes beside them, and checks
these on the way down. What counts is the quickest round of each: what others do on the machine makes rounds slower,
and none quicker. The API's process is looked at through /proc: its processor time is what a busy machine spoils least.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from blake3 import blake3

from bench.report import Report
from bench.uploads import BUCKET, LOADS, emptied, made, plain_client, s3_server
from bench.waiting import BenchFleet, Usage
from core.settings import Settings
from core.storage.objects import S3Storage
from core.storage.placing import LocalFile
from tests.waiting import until

#: Of plain boto3's speed.
GOAL = 0.9
ROUNDS = 12
UPLOADS = 1000
UPLOAD_BYTES = 1_000_000
CLIENTS = 4
#: What is imported, connected and cached at first use is not an upload's.
WARM_UP = 100
UPLOAD_MS = 20.0
#: What the process may have grown by at the end: allocators keep some of what they were asked for, once.
GROWTH_KB = 10_000


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a round took: time, and this process's processor time."""

    seconds: float
    cpu_s: float


def main() -> int:
    """Run the bench; the exit status says whether the goal was met."""
    report = Report("bench.storage")
    with tempfile.TemporaryDirectory() as folder, s3_server() as url:
        plain = plain_client(url)
        plain.create_bucket(Bucket=BUCKET)
        settings = Settings(
            data_dir=Path(folder) / "data",
            storage_url=f"s3://{BUCKET}/files",
            storage_endpoint_url=url,
            storage_access_key_id="key",
            storage_secret_access_key="secret",
        )
        for name, count, size_bytes in LOADS:
            report.progress(name)
            paths = made(Path(folder), count, size_bytes)
            for way, (direct, ours) in measured(plain, S3Storage(settings, "outputs"), paths).items():
                megabytes, ratio = count * size_bytes / 1e6, direct.seconds / ours.seconds
                figures = f"{megabytes / direct.seconds:.0f}, {megabytes / ours.seconds:.0f} MB/s: {ratio:.2f}"
                figures += f" (processor time {1000 * direct.cpu_s:.0f}, {1000 * ours.cpu_s:.0f} ms)"
                report.line(f"{name} {way}: plain, ours", figures, goal=f">= {GOAL}", met=ratio >= GOAL)
        report.progress(f"{UPLOADS} uploads of 1 MB")
        emptied(plain)
        (Path(folder) / "fleet").mkdir()
        cost = uploaded(
            Path(folder) / "fleet",
            storage_url=f"s3://{BUCKET}/fleet",
            storage_endpoint_url=url,
            storage_access_key_id="key",
            storage_secret_access_key="secret",
        )
    goal, met = f"<= {UPLOAD_MS:.0f} ms", cost.cpu_ms <= UPLOAD_MS
    report.line("an upload of 1 MB: processor time", f"{cost.cpu_ms:.1f} ms", goal=goal, met=met)
    goal, met = f"<= {GROWTH_KB / 1000:.0f} MB", cost.growth_kb <= GROWTH_KB
    held = f"{cost.rss_kb[0] / 1000:.1f} to {cost.rss_kb[-1] / 1000:.1f} MB"
    report.line(f"memory of the API over {UPLOADS} of them", held, goal=f"grows {goal}", met=met)
    return report.print()


def measured(plain: Any, storage: S3Storage, paths: list[Path]) -> dict[str, tuple[Spent, Spent]]:
    """What a round takes each way, plain and ours, up and down; the two take turns."""
    digests = {path: f"blake3:{blake3(path.read_bytes()).hexdigest()}" for path in paths}
    target = paths[0].parent / "copy"

    def put(number: str) -> None:
        for path in paths:
            plain.upload_file(str(path), BUCKET, f"plain/{number}/{path.name}")

    def keep(number: str) -> None:
        files = [(f"{number}/{path.name}", path) for path in paths]
        storage.keep(
            [LocalFile(key=key, path=path, digest=digests[path], content_type="image/png") for key, path in files]
        )

    def get(number: str) -> None:
        for path in paths:
            plain.download_file(BUCKET, f"plain/{number}/{path.name}", str(target))

    def copy(number: str) -> None:
        for path in paths:
            storage.copy(f"{number}/{path.name}", target)

    rounds: dict[str, list[tuple[Spent, Spent]]] = {"up": [], "down": []}
    for number in map(str, range(ROUNDS)):
        for way, (direct, ours) in {"up": (put, keep), "down": (get, copy)}.items():
            rounds[way].append((_spent(direct, number), _spent(ours, number)))
        emptied(plain)
    return {
        way: (_least(each[0] for each in found), _least(each[1] for each in found)) for way, found in rounds.items()
    }


def _spent(work: Callable[[str], None], number: str) -> Spent:
    began_s, cpu_s = time.perf_counter(), time.process_time()
    work(number)
    return Spent(seconds=time.perf_counter() - began_s, cpu_s=time.process_time() - cpu_s)


def _least(rounds: Iterable[Spent]) -> Spent:
    found = list(rounds)
    return Spent(seconds=min(each.seconds for each in found), cpu_s=min(each.cpu_s for each in found))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of uploads, to the process that serves the API."""

    #: Processor time of each, user and system.
    cpu_ms: float
    #: Resident memory before the first and after each tenth of them.
    rss_kb: list[int]

    @property
    def growth_kb(self) -> int:
        """How much more it holds at the end than before."""
        return self.rss_kb[-1] - self.rss_kb[0]


def uploaded(folder: Path, **settings: str) -> Cost:
    """Send files that all differ through the API, several at a time."""
    fleet = BenchFleet(folder, "gevent", **settings)
    with fleet:
        fleet.start("broker", "api")
        until(lambda: _answers(fleet.base_url), what="an API", timeout_s=60)
        pid, contents = fleet.api_worker_pid(), _contents()
        with ThreadPoolExecutor(CLIENTS) as clients, requests.Session() as http:
            url = f"{fleet.base_url}/api/v2/assets"

            def upload(content: bytes) -> None:
                answer = http.post(url, files={"file": ("a.bin", content)}, data={"file_path": "a.bin"}, timeout=60)
                assert answer.status_code == 201, answer.text

            list(clients.map(upload, itertools.islice(contents, WARM_UP)))
            before, rss_kb = Usage.of(pid), []
            rss_kb.append(before.rss_kb)
            for _ in range(10):
                list(clients.map(upload, itertools.islice(contents, UPLOADS // 10)))
                rss_kb.append(Usage.of(pid).rss_kb)
            after = Usage.of(pid)
    return Cost(cpu_ms=1000 * (after.cpu_s - before.cpu_s) / UPLOADS, rss_kb=rss_kb)


def _contents() -> Iterator[bytes]:
    common = os.urandom(UPLOAD_BYTES - 8)
    return (number.to_bytes(8, "big") + common for number in itertools.count())


def _answers(base_url: str) -> bool:
    try:
        return requests.get(f"{base_url}/health", timeout=2).ok
    except requests.RequestException:
        return False


if __name__ == "__main__":
    sys.exit(main())
