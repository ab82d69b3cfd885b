"""How fast a bucket is as storage: outputs up and inputs down, against plain boto3 in the same run.

    python -m bench.storage

Both move the same files, one after the other and in turns, to and from one S3 server (moto) in a process of its own on
this machine. Ours looks whether the files are there, before and afterwards, writes their hashes beside them, and checks
these on the way down. What counts is the quickest round of each: what others do on the machine makes rounds slower, and
none quicker.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from blake3 import blake3

from bench.report import Report
from bench.uploads import BUCKET, LOADS, emptied, made, plain_client, s3_server, timed
from core.settings import Settings
from core.storage.objects import S3Storage
from core.storage.placing import LocalFile

#: Of plain boto3's speed.
GOAL = 0.9
ROUNDS = 12


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
    """Seconds of a round each way, the quickest, up and down; the two take turns."""
    digests = {path: f"blake3:{blake3(path.read_bytes()).hexdigest()}" for path in paths}
    target = paths[0].parent / "copy"

    def keep(job: str) -> float:
        began_s = time.perf_counter()
        storage.keep(
            [
                LocalFile(key=f"{job}/{path.name}", path=path, digest=digests[path], content_type="image/png")
                for path in paths
            ]
        )
        return time.perf_counter() - began_s

    def put(key: str, path: Path) -> None:
        plain.upload_file(str(path), BUCKET, f"plain/{key}")

    def get(key: str, _path: Path) -> None:
        plain.download_file(BUCKET, f"plain/{key}", str(target))

    taken: dict[str, list[tuple[float, float]]] = {"up": [], "down": []}
    for number in map(str, range(ROUNDS)):
        taken["up"].append((timed(put, number, paths), keep(number)))
        taken["down"].append(
            (timed(get, number, paths), timed(lambda key, _path: storage.copy(key, target), number, paths))
        )
        emptied(plain)
    return {way: (min(each[0] for each in rounds), min(each[1] for each in rounds)) for way, rounds in taken.items()}


if __name__ == "__main__":
    sys.exit(main())
