"""How fast a bucket is as storage: outputs up and inputs down, against plain boto3 in the same run.

    python -m bench.storage

Both move the same files, one after the other and in turns, to and from one S3 server (moto) in a process of its own on
this machine. Ours looks whether the file is there, writes its hash beside it, and checks the hash on the way down.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from blake3 import blake3

from bench.report import Report
from bench.uploads import BUCKET, LOADS, ROUNDS, Send, emptied, made, plain_client, s3_server, timed
from core.settings import Settings
from core.storage.objects import S3Storage
from core.storage.placing import LocalFile

#: Of plain boto3's speed.
GOAL = 0.9


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
            for way, (direct_s, ours_s) in measured(plain, S3Storage(settings, "outputs"), paths).items():
                megabytes, ratio = count * size_bytes / 1e6, direct_s / ours_s
                figures = f"{megabytes / direct_s:.0f}, {megabytes / ours_s:.0f} MB/s: {ratio:.2f}"
                report.line(f"{name} {way}: plain, ours", figures, goal=f">= {GOAL}", met=ratio >= GOAL)
    return report.print()


def measured(plain: Any, storage: S3Storage, paths: list[Path]) -> dict[str, tuple[float, float]]:
    """Seconds of a round each way, the median, up and down; the two take turns, so that a busy moment meets both."""
    digests = {path: f"blake3:{blake3(path.read_bytes()).hexdigest()}" for path in paths}
    target = paths[0].parent / "copy"

    def keep(key: str, path: Path) -> None:
        storage.keep([LocalFile(key=key, path=path, digest=digests[path], content_type="image/png")])

    ways: dict[str, tuple[Send, Send]] = {
        "up": (lambda key, path: plain.upload_file(str(path), BUCKET, f"plain/{key}"), keep),
        "down": (
            lambda key, _path: plain.download_file(BUCKET, f"plain/{key}", str(target)),
            lambda key, _path: storage.copy(key, target),
        ),
    }
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(ROUNDS):
        for way, (direct, ours) in ways.items():
            taken[way].append((timed(direct, str(number), paths), timed(ours, str(number), paths)))
        emptied(plain)
    # The first round makes connections and fills caches.
    return {
        way: (statistics.median(each[0] for each in rounds[1:]), statistics.median(each[1] for each in rounds[1:]))
        for way, rounds in taken.items()
    }


if __name__ == "__main__":
    sys.exit(main())
