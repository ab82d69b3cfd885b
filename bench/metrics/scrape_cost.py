"""What a scrape costs of a fleet of 1,000 GPUs with 100,000 waiting jobs, on SQLite and PostgreSQL.

    python -m bench.metrics.scrape_cost [--gpus 1000] [--waiting 100000]

The ledger is as full as a scrape can meet it: each GPU runs a job, 10,000 webhooks are due, and all 20 tenants, 20
templates and the others have sums of everything. One process asks, as an API process does, and the answer is the whole
text; the looks at broker and storage happen beside it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from api.server.metrics import scrape
from api.server.metrics.scrape import Scraper
from bench.claims_ledger import Case, fill, gpu_name
from bench.report import Report
from core.clock import now_ms
from core.ledger import Ledger
from core.ledger.database import tables
from core.ledger.database.access_tables import tenant_files
from core.ledger.database.fleet_tables import facts
from core.ledger.database.metric_tables import metric_sums
from core.ledger.metrics.bounded_labels import FACT
from core.metrics.counted import COUNTED
from core.metrics.family import Family
from core.metrics.tally import SUM, sample_of
from core.storage.marker import StorageMarker
from tests.services import find_postgres

SCRAPES = 40
GOAL_MS = 50.0
DUE = 10_000
VALUES = {
    "tenant": [*(f"tenant-{number}" for number in range(20)), "other"],
    "template": [*(f"template-{number}" for number in range(20)), "other"],
    "gpu_kind": [f"NVIDIA H{number}00" for number in range(8)],
    "status": ["succeeded", "failed", "canceled", "expired"],
    "route": [f"/api/v2/things/{number}" for number in range(60)],
    "method": ["GET", "POST", "DELETE"],
    "code": [f"code-{number}" for number in range(20)],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=1_000)
    parser.add_argument("--waiting", type=int, default=100_000)
    asked = parser.parse_args()
    report = Report("bench.metrics.scrape_cost")
    with tempfile.TemporaryDirectory() as folder:
        measure(report, Case(url="", data_dir=f"{folder}/sqlite", waiting=asked.waiting, gpus=asked.gpus))
        server = find_postgres()
        url = server.create()
        try:
            measure(report, Case(url=url, data_dir=f"{folder}/postgres", waiting=asked.waiting, gpus=asked.gpus))
        finally:
            server.drop(url)
    return report.print()


def measure(report: Report, case: Case) -> None:
    """Fill a ledger and scrape it."""
    Path(case.data_dir).mkdir()
    kind = "PostgreSQL" if case.url else "SQLite"
    report.progress(f"{kind}: {case.waiting:,} jobs, {case.gpus:,} GPUs")
    fill(case)
    scrape.MAX_AGE_S = 0.0
    with closing(Ledger(case.settings)) as ledger:
        with ledger.database.engine.begin() as connection:
            put_work(connection, case)
        with ledger.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("ANALYZE" if ledger.database.is_sqlite else "VACUUM ANALYZE"))
        scraper = Scraper(case.settings, ledger, StorageMarker(case.settings, ledger.storage_moves))
        text = scraper.answer()
        took_ms, read_ms, cpu_ms = [], [], []
        for _ in range(SCRAPES):
            # It is asked every few seconds, and its values are not kept from one time to the next.
            scraper._view._stale_at_s = 0.0
            begun_s, cpu_s = time.perf_counter(), time.process_time()
            scraper.answer()
            took_ms.append((time.perf_counter() - begun_s) * 1000)
            cpu_ms.append((time.process_time() - cpu_s) * 1000)
            begun_s = time.perf_counter()
            ledger.fleet_state.read()
            read_ms.append((time.perf_counter() - begun_s) * 1000)
    lines = sum(not line.startswith(b"#") for line in text.splitlines())
    median_ms = statistics.median(took_ms)
    report.line(f"{kind}: a scrape", f"{median_ms:.1f} ms", goal=f"< {GOAL_MS:.0f} ms", met=median_ms < GOAL_MS)
    report.line(f"{kind}: the fastest of {SCRAPES}", f"{min(took_ms):.1f} ms")
    report.line(f"{kind}: 95 of 100", f"{sorted(took_ms)[int(0.95 * SCRAPES)]:.1f} ms")
    report.line(f"{kind}: of that, the ledger", f"{statistics.median(read_ms):.1f} ms")
    report.line(f"{kind}: processor time", f"{statistics.median(cpu_ms):.1f} ms")
    report.line(f"{kind}: samples, bytes", f"{lines:,}, {len(text):,}")


def put_work(connection: sa.Connection, case: Case) -> None:
    """Let each GPU run a job, webhooks be due, and everything have been counted."""
    jobs = tables.jobs
    ids = connection.execute(sa.select(jobs.c.id).limit(case.gpus)).scalars().all()
    running = (
        sa.update(jobs)
        .where(jobs.c.id == sa.bindparam("job"))
        .values(status="running", attempt=1, instance=sa.bindparam("on"), tenant=sa.bindparam("of"))
    )
    rows = [{"job": job_id, "on": gpu_name(number), "of": f"tenant-{number % 25}"} for number, job_id in enumerate(ids)]
    connection.execute(running, rows)
    connection.execute(sa.update(tables.instances).values(pool="pool", vram_bytes=2**34, vram_used_bytes=2**33))
    for number in range(100):
        connection.execute(sa.update(tables.lines).where(tables.lines.c.id == number).values(tenant=f"t{number % 30}"))
    connection.execute(sa.insert(tables.deliveries), [due_webhook(ids[0], number) for number in range(DUE)])
    connection.execute(sa.insert(tenant_files), [{"tenant": f"t{number}", "kept_bytes": 10} for number in range(200)])
    known = ", ".join(f'"{label}": {list_of(VALUES[label][:-1])}' for label in ("tenant", "template", "gpu_kind"))
    connection.execute(sa.insert(facts), {"name": FACT, "value": f'{{"looked_at_ms": {now_ms()}, {known}}}'})
    counted = [sample for family in COUNTED.values() for sample in samples_of(family)]
    sums = {sample: 12345.678 * (place + 1) for place, sample in enumerate(counted)}
    connection.execute(sa.insert(metric_sums), [{"sample": name, "amount": amount} for name, amount in sums.items()])


def list_of(values: list[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def due_webhook(job_id: str, number: int) -> dict[str, Any]:
    """A webhook that could be sent now."""
    same = {"job_id": job_id, "event": "job.succeeded", "url": "http://x", "timeout_s": 1.0, "body": "{}"}
    times = {"next_try_at_ms": now_ms() - number, "created_at_ms": now_ms(), "updated_at_ms": now_ms()}
    return {"id": f"{number:036}", "state": "pending", "tries": 0, **same, **times}


def samples_of(family: Family) -> list[str]:
    """Everything that a family can have counted."""
    parts = [*map(str, range(len(family.buckets) + 1)), SUM] if family.kind == "histogram" else [""]
    labels = itertools.product(*(VALUES.get(label, ["a", "b"]) for label in family.labels))
    return [sample_of(family, part, each) for each in labels for part in parts]


if __name__ == "__main__":
    sys.exit(main())
