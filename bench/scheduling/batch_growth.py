"""How many bytes of the ledger each job of a batch takes, by table and index, on PostgreSQL.

    python -m bench.scheduling.batch_growth [--jobs 2000]

One process: an API, and a stand-in for a GPU worker that moves the jobs through the ledger as one does, each with one
output. Measured is the room on disk once the batch is recorded, and once it has run and what it used is folded away:
as vacuum leaves it, with the room that further jobs fill before anything grows; and packed, the rows alone, also an
hour later, when the logs of ended jobs are folded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psycopg

from bench.report import Report
from core.clock import ledger_clock
from core.ledger import Ledger
from core.ledger.event_log import REST_MS
from core.settings import Settings
from tests.integration.api_fixtures import INSTANCE, Api, running_api
from tests.makers import GRAPH
from tests.services import NO_BROKER, find_postgres

#: Of a child that has run.
GOAL_BYTES = 2000
#: A relation of which a child takes less is not told.
LEAST_BYTES = 20
#: Jobs that run before anything is measured, so that what a fleet writes once is there.
FIRST = 20
#: A little picture, so that every job has an output.
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(100)
#: Tables, with what they keep apart of long values, and indexes.
_SIZES: Final = """
    SELECT c.relname, pg_table_size(c.oid) FROM pg_class c WHERE c.relkind IN ('r', 'i')
    AND c.relnamespace = 'public'::regnamespace
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    jobs = parser.parse_args().jobs
    report = Report("bench.scheduling.batch_growth")
    postgres = find_postgres()
    url = postgres.create()
    try:
        with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder:
            settings = Settings(data_dir=Path(folder), database_url=url, broker_url=NO_BROKER)
            with running_api(settings) as api:
                measure(report, api, url, jobs)
    finally:
        postgres.drop(url)
    return report.print()


def measure(report: Report, api: Api, url: str, jobs: int) -> None:
    """Record a batch, run it, and one more in the room that it left; then let logs be folded."""
    api.worker.come_up()
    run_batch(api, submit_batch(api, FIRST), FIRST)
    fold(api.ledger)
    before = sizes(url, "VACUUM")
    report.progress(f"a batch of {jobs} jobs is recorded")
    batch_id = submit_batch(api, jobs)
    recorded = sizes(url, "VACUUM")
    report.progress("it runs")
    run_batch(api, batch_id, jobs)
    fold(api.ledger)
    run = sizes(url, "VACUUM")
    report.progress("and one more")
    run_batch(api, submit_batch(api, jobs), jobs)
    fold(api.ledger)
    again, packed = sizes(url, "VACUUM"), sizes(url, "VACUUM FULL")
    ledger_clock.shift_ms += 2 * REST_MS
    fold(api.ledger)
    later = sizes(url, "VACUUM FULL")
    report.line("a child that was recorded", f"{_grown(before, recorded) / jobs:,.0f} bytes")
    _against_goal(report, "one that has run", _grown(before, run) / jobs)
    report.line("one of a second batch", f"{_grown(run, again) / jobs:,.0f} bytes")
    children = 2 * jobs + FIRST
    report.line("rows and entries of indexes, packed", f"{sum(packed.values()) / children:,.0f} bytes")
    _against_goal(report, "the same an hour after the end", sum(later.values()) / children)
    for name in sorted(packed, key=lambda name: -packed[name]):
        if packed[name] / children >= LEAST_BYTES:
            each = (packed[name] / children, later[name] / children, (run[name] - before[name]) / jobs)
            report.line(f"  {name}", "{:,.0f} packed, {:,.0f} later, {:,.0f} as it has grown".format(*each))


def _against_goal(report: Report, name: str, each: float) -> None:
    report.line(name, f"{each:,.0f} bytes", goal=f"under {GOAL_BYTES}", met=each < GOAL_BYTES)


def _grown(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    return sum(after.values()) - sum(before.values())


def submit_batch(api: Api, jobs: int) -> str:
    """Submit a batch of so many seeds."""
    api.worker.beat()
    answer = api.post("/api/v2/batches", {"workflow": GRAPH, "over": {"1.color": f"1..{jobs}"}})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def run_batch(api: Api, batch_id: str, jobs: int) -> None:
    """Run all jobs of a batch, with some progress on each."""
    for number in range(jobs):
        if number % 100 == 0:
            api.worker.beat()
        claim = api.ledger.claims.claim(INSTANCE)
        assert claim is not None
        api.worker.finish(claim, PICTURE)
    assert api.ledger.batches.get(batch_id).counts == {"succeeded": jobs}


def fold(ledger: Ledger) -> None:
    """Have what was used and counted folded into sums, and logs that are old enough."""
    while ledger.usage.fold() or ledger.metrics.fold() or ledger.event_folding.fold():
        continue


def sizes(url: str, vacuum: str) -> Mapping[str, int]:
    """Return how many bytes each relation takes on disk, after a vacuum."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(vacuum)
        return {str(name): int(size) for name, size in connection.execute(_SIZES).fetchall()}


if __name__ == "__main__":
    sys.exit(main())
