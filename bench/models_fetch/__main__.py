"""How fast a model file comes to a GPU host: 2 GB from an HTTP server on this machine, against `curl`.

    python -m bench.models_fetch [--folder /dev/shm]

Ours, `curl`, and `curl` with `sha256sum` after it take turns, from one server in a process of its own (it gives ranges,
and sends from the page cache without copying) to the same folder. Ours comes over four connections, keeps a journal,
hashes the file and waits until the disk has it; `curl` does none of this, so that the second figure is the fair one.
The processor time is what a machine that others use shows best.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.models_fetch.server import model_served
from bench.report import Report
from comfy.model_files.download import Download
from comfy.model_files.offers import Wanted
from comfy.model_files.remote import Address

SIZE_BYTES = 2 * 10**9
ROUNDS = 7
#: Of the speed of `curl`.
GOAL = 0.9


def main(arguments: list[str]) -> int:
    """Run the bench; the exit status says whether the goal was met."""
    parser = argparse.ArgumentParser(description="Fetch a model file, against curl.")
    parser.add_argument(
        "--folder", type=Path, help="Where files are kept: a folder in RAM, or on the disk that counts."
    )
    parser.add_argument("--size", type=int, default=SIZE_BYTES, help="Of the file, in bytes.")
    given = parser.parse_args(arguments)
    report = Report("bench.models_fetch")
    if shutil.which("curl") is None or shutil.which("sha256sum") is None:
        print("  curl and sha256sum are needed to compare with", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(dir=given.folder) as name, model_served(Path(name), given.size) as (url, sha256):
        taken = measured(report, url, sha256, Path(name))
    ways = [
        Took(*(statistics.median(figures) for figures in zip(*rounds, strict=True)))
        for rounds in zip(*taken, strict=True)
    ]
    direct, hashed, ours = ways
    for what, other in (("curl", direct), ("curl and sha256sum", hashed)):
        ratio = other.wall_s / ours.wall_s
        figures = f"{given.size / other.wall_s / 1e6:.0f}, {given.size / ours.wall_s / 1e6:.0f} MB/s: {ratio:.2f}"
        report.line(f"{what}, ours", figures, goal=f">= {GOAL}", met=ratio >= GOAL)
    report.line("ours of curl, each round", ", ".join(f"{each[0].wall_s / each[2].wall_s:.2f}" for each in taken))
    processor = ", ".join(f"{way.processor_s / given.size * 1e9:.2f}" for way in ways)
    report.line("processor time: all three", f"{processor} s for each GB")
    return report.print()


class Took(NamedTuple):
    """What one fetch took, in seconds; the processor's without the server's."""

    wall_s: float
    processor_s: float


def measured(report: Report, url: str, sha256: str, folder: Path) -> list[tuple[Took, Took, Took]]:
    """Each round: `curl`, `curl` with `sha256sum`, ours. The first one fills caches, and does not count."""
    place = folder / "fetched.safetensors"

    def curl() -> None:
        subprocess.run(["curl", "--silent", "--fail", "--output", str(place), url], check=True)

    def curl_and_hash() -> None:
        curl()
        said = subprocess.run(["sha256sum", str(place)], check=True, capture_output=True, text=True).stdout
        assert said.startswith(sha256), "the server gave another file"

    def ours() -> None:
        part = folder / ".fetched.safetensors.part"
        address = Address(url=lambda: url, shown=url, allow_http=True)
        Download(address, part, Wanted(sha256=sha256, size_bytes=None)).run()
        part.replace(place)

    rounds = []
    for number in range(ROUNDS + 1):
        report.progress(f"round {number}")
        rounds.append((timed(curl, place), timed(curl_and_hash, place), timed(ours, place)))
    return rounds[1:]


def timed(fetch: Callable[[], None], place: Path) -> Took:
    """Return what a fetch takes to a place where nothing is."""
    place.unlink(missing_ok=True)
    # What earlier ones have left to be written is not for this one to wait for.
    os.sync()
    begun_s, used_s = time.perf_counter(), _processor_s()
    fetch()
    return Took(time.perf_counter() - begun_s, _processor_s() - used_s)


def _processor_s() -> float:
    """Of this process and of those that it has waited for, so that the server's is left out."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
