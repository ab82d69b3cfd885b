"""What a claim costs: by how many jobs wait, how many of them fit no GPU, and by the number of GPUs and of lines.

    python -m bench.claims [--quick] [--only postgresql|sqlite] [--before COMMIT]

Each case has a ledger of its own: a PostgreSQL database that is made and dropped (COMFYLINE_TEST_POSTGRES_URL), or a
SQLite file. One claimer, which speaks for all GPUs in turn, claims a job, lets it fail and submits another one in its
stead; only the claims are timed. Then 16 processes do the same at once. `--before` measures a commit besides, in the
same minutes: each case once with this tree and once with that one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.report import Report
from tests.services import PostgresServer, find_postgres

ROOT = Path(__file__).parent.parent
CLAIMERS = 16
GOAL_MEDIAN_MS, GOAL_P99_MS, GOAL_CROWD_P99_MS = 4.0, 20.0, 120.0
#: Each differs from the first in one respect, and the last in all.
CASES: list[dict[str, Any]] = [
    {"waiting": 10_000},
    {"waiting": 100},
    {"waiting": 100_000},
    {"waiting": 1_000_000},
    {"waiting": 10_000, "lines": 1},
    {"waiting": 10_000, "lines": 1000},
    {"waiting": 10_000, "gpus": 1},
    {"waiting": 10_000, "gpus": 1000},
    {"waiting": 100_000, "misfits": 0.9},
    {"waiting": 1_000_000, "misfits": 0.9, "gpus": 1000, "lines": 1000},
]
CROWDS: list[dict[str, Any]] = [
    {"waiting": 10_000, "lines": 1, "gpus": CLAIMERS},
    {"waiting": 10_000, "lines": 100, "gpus": CLAIMERS},
    {"waiting": 1_000_000, "lines": 1000, "gpus": 1000, "misfits": 0.9},
]
QUICK = 100_000
ODD = {"nothing": "got nothing", "refused": "were refused by a busy database", "loads": "came with a load"}


def name_of(case: dict[str, Any]) -> str:
    """What a case is, in words."""
    words = [f"{case['waiting']:,} wait", f"{case.get('lines', 100):,} lines", f"{case.get('gpus', 8):,} GPUs"]
    if case.get("misfits"):
        words.append(f"{case['misfits']:.0%} misfits")
    return ", ".join(words)


class Bench:
    """Runs cases in trees, each with a ledger of its own.

    Parameters:
      trees: roots of this version, and of the one before, by what they are called.
    """

    def __init__(self, report: Report, trees: dict[str, Path], *, seconds: float) -> None:
        self._report = report
        self._trees = trees
        self._seconds = seconds
        self._postgres: PostgresServer | None = None

    def run(self, database: str, case: dict[str, Any], *, claimers: int = 1) -> None:
        """Measure one case in each tree."""
        for tree, root in self._trees.items():
            with self._ledger(database) as (url, folder):
                asked = {"url": url, "data_dir": str(folder), "claimers": claimers, "seconds": self._seconds, **case}
                figures = _measured(root, asked)
            where = f"{database}, {tree}" if tree else database
            self._say(f"{where}: {name_of(case)}", figures, claimers, has_goal=not tree)

    def _say(self, name: str, figures: dict[str, Any], claimers: int, *, has_goal: bool) -> None:
        values = f"median {figures['median_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms"
        values += f", own processor time {figures['cpu_ms']:.1f} ms, load {os.getloadavg()[0]:.1f}"
        odd = [f"{figures[what]} {said}" for what, said in ODD.items() if figures[what]]
        if odd:
            values += f" (of {figures['claims']} claims {', '.join(odd)})"
        if claimers > 1:
            met = figures["p99_ms"] < GOAL_CROWD_P99_MS
            goal = f"p99 under {GOAL_CROWD_P99_MS:.0f} ms"
            values = f"{figures['per_s']:.0f}/s by {claimers}, {values}"
        else:
            met = figures["median_ms"] < GOAL_MEDIAN_MS and figures["p99_ms"] < GOAL_P99_MS
            goal = f"under {GOAL_MEDIAN_MS:.0f} and {GOAL_P99_MS:.0f} ms"
        self._report.line(name, values, goal=goal if has_goal else None, met=met or not has_goal)
        self._report.progress(f"{name}: {values}")

    @contextlib.contextmanager
    def _ledger(self, database: str) -> Iterator[tuple[str, Path]]:
        with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder:
            if database == "sqlite":
                yield "", Path(folder)
                return
            self._postgres = self._postgres or find_postgres()
            url = self._postgres.create()
            try:
                yield url, Path(folder)
            finally:
                self._postgres.drop(url)


def _measured(root: Path, asked: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        ["env", f"PYTHONPATH={root}", sys.executable, str(ROOT / "bench" / "claims_ledger.py"), json.dumps(asked)],
        cwd=asked["data_dir"],
        stdout=subprocess.PIPE,
        check=True,
        timeout=1800,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@contextlib.contextmanager
def _tree_of(commit: str) -> Iterator[Path]:
    """A commit's files, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder:
        archive = subprocess.run(["git", "archive", commit, "core"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="not a million jobs, and for a second only")
    parser.add_argument("--only", choices=("postgresql", "sqlite"))
    parser.add_argument("--before", metavar="COMMIT", help="measure this commit besides")
    asked = parser.parse_args()
    databases = [asked.only] if asked.only else ["postgresql", "sqlite"]
    report = Report("bench.claims")
    with contextlib.ExitStack() as stack:
        trees = {"": ROOT}
        if asked.before:
            trees[asked.before[:7]] = stack.enter_context(_tree_of(asked.before))
        bench = Bench(report, trees, seconds=1.5 if asked.quick else 5.0)
        for database in databases:
            for claimers, cases in ((1, CASES), (CLAIMERS, CROWDS)):
                for case in cases:
                    if asked.quick:
                        case = {**case, "waiting": min(case["waiting"], QUICK)}
                    bench.run(database, case, claimers=claimers)
    return report.print()


if __name__ == "__main__":
    sys.exit(main())
