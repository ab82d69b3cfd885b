"""A ledger full of waiting jobs, and processes that claim them: what `bench.claims` measures.

    python bench/claims_ledger.py '{"url": ..., "waiting": 10000, ...}'

It is run as a program of its own, so that the same can be measured of another version of `core`: with that one's root
as PYTHONPATH. It leaves out what that version does not know. The figures come as one line of JSON.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from core.clock import now_ms
from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.database import tables
from core.ledger.upgrade import migrate
from core.records.job_error import JobError
from core.records.job_request import AcceptedJob, JobRequest
from core.settings import Settings

FITS, FITS_NOBODY = "a" * 64, "b" * 64
DONE = JobError(code="node_execution_error", message="the bench lets every job fail")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One ledger, and how it is claimed from."""

    url: str
    data_dir: str
    waiting: int
    #: The share of jobs that no GPU can run, in lines of their own.
    misfits: float = 0.0
    gpus: int = 8
    lines: int = 100
    claimers: int = 1
    #: How long each claimer claims.
    seconds: float = 4.0

    @property
    def settings(self) -> Settings:
        """Those of a process that uses this ledger."""
        return Settings(data_dir=Path(self.data_dir), database_url=self.url, broker_url="redis://127.0.0.1:1/0")

    @property
    def fitting_lines(self) -> int:
        """How many of the lines some GPU can run."""
        return max(1, self.lines - round(self.lines * self.misfits))


def files_of(number: int) -> tuple[str, ...]:
    """The model files of a line."""
    return (f"model-{number}.safetensors",)


def new_job(number: int) -> AcceptedJob:
    """A job of one of the lines that fit."""
    graph = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": files_of(number)[0]}}}
    request = JobRequest(contract="v2", graph=graph)
    more: dict[str, Any] = {"catalogues": (FITS,)}
    if hasattr(AcceptedJob, "models"):
        more["models"] = files_of(number)
    return AcceptedJob(request=request, id=str(uuid.uuid4()), graph_text=json.dumps(graph), nodes_total=1, **more)


def fill(case: Case) -> None:
    """Make the tables, the fleet and everything that waits."""
    migrate(case.settings)
    ledger = Ledger(case.settings)
    with ledger.database.engine.connect() as connection:
        if not ledger.database.is_sqlite:
            connection.execute(sa.text("SET statement_timeout = 0"))
        put_jobs(connection, case)
        put_fleet(connection, case)
        connection.commit()
        statement = "ANALYZE" if ledger.database.is_sqlite else "VACUUM ANALYZE"
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text(statement))
    ledger.close()


def put_jobs(connection: sa.Connection, case: Case) -> None:
    """Jobs that came within a minute, each in one of the lines in turn; made by the database, for they are many."""
    misfits = round(case.waiting * case.misfits)
    others = max(1, case.lines - case.fitting_lines)
    _put(connection, case.waiting - misfits, case.fitting_lines, FITS, first_line=1)
    if misfits:
        _put(connection, misfits, others, FITS_NOBODY, first_line=case.fitting_lines + 1)
    if hasattr(tables, "lines"):
        put_lines(connection)


def _put(connection: sa.Connection, jobs: int, lines: int, catalogue: str, *, first_line: int) -> None:
    began = now_ms() - 90_000
    new_id = "gen_random_uuid()" if connection.dialect.name == "postgresql" else "lower(hex(randomblob(16)))"
    came = f"{began} + CAST(n AS BIGINT) * 60000 / {jobs}"
    columns = {
        "id": new_id,
        "contract": "'v2'",
        "status": "'queued'",
        "attempt": "0",
        "lost_attempts": "0",
        "last_seq": "1",
        "priority": "0",
        "nodes_total": "1",
        "graph": f"'{new_job(0).graph_text}'",
        "catalogues": f"'{catalogue}'",
        "created_at_ms": came,
        "updated_at_ms": came,
        "expires_at_ms": str(began + 10**9),
        "files_expire_at_ms": str(began + 10**9),
    }
    if "line" in tables.jobs.c:
        columns["line"] = f"{first_line} + n - n / {lines} * {lines}"
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {jobs}) "
    rows = f"SELECT {', '.join(columns.values())} FROM numbers"
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"INSERT INTO jobs ({', '.join(columns)}) {numbers}{rows}")
    else:
        connection.exec_driver_sql(f"{numbers}INSERT INTO jobs ({', '.join(columns)}) {rows}")


def put_lines(connection: sa.Connection) -> None:
    """What the lines are, counted from the jobs that stand in them."""
    from core.ledger.scheduling.lines import LineKind

    jobs = tables.jobs.c
    found = connection.execute(
        sa.select(jobs.line, sa.func.min(jobs.catalogues), sa.func.count(), sa.func.min(jobs.created_at_ms))
        .where(jobs.status == "queued")
        .group_by(jobs.line)
    ).all()
    rows = []
    for line, catalogues, waiting, head_ms in found:
        kind = LineKind(priority=0, files=files_of(line - 1), catalogues=catalogues)
        rows.append(
            {
                "id": line,
                "digest": kind.digest,
                "priority": kind.priority,
                "tenant": kind.tenant,
                "models": kind.models,
                "files": list(kind.files),
                "catalogues": catalogues,
                "waiting": waiting,
                "head_ms": head_ms,
                "updated_at_ms": now_ms(),
            }
        )
    connection.execute(sa.insert(tables.lines), rows)
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT setval(pg_get_serial_sequence('lines', 'id'), (SELECT MAX(id) FROM lines))"))


def put_fleet(connection: sa.Connection, case: Case) -> None:
    """GPUs that never fall silent, each with the model of one of the lines that fit; and what loads and jobs take."""
    far = now_ms() + 10**9
    instances: list[dict[str, Any]] = []
    residents: list[dict[str, Any]] = []
    durations: list[dict[str, Any]] = []
    has_lines = hasattr(tables, "lines")
    if has_lines:
        from core.ledger.model_sets import load_subject, model_set_of, run_subject

        for number in range(case.lines):
            models = model_set_of(files_of(number))
            same = {"gpu": "simulator", "seen": 9, "updated_at_ms": now_ms()}
            durations += [
                {"what": run_subject(models), "average_s": 4.0, **same},
                {"what": load_subject(models), "average_s": 15.0, **same},
            ]
    for number in range(case.gpus):
        name, files = gpu_name(number), files_of(number % case.fitting_lines)
        row: dict[str, Any] = {
            "name": name,
            "host": "bench",
            "worker": "bench",
            "kind": "simulator",
            "state": "healthy",
        }
        row |= {"catalogue": FITS, "restarts": 0, "started_at_ms": now_ms(), "heartbeat_at_ms": far}
        if has_lines:
            row |= {"held": [[files[0], 6_000_000_000]], "memory_bytes": 6_000_000_000}
            residents.append({"instance": name, "models": model_set_of(files)})
        instances.append(row)
    connection.execute(sa.insert(tables.instances), instances)
    if has_lines:
        by_name = tables.metadata.tables
        connection.execute(sa.insert(by_name["residents"]), residents)
        connection.execute(sa.insert(by_name["durations"]), durations)


def gpu_name(number: int) -> str:
    """The name of a GPU."""
    return f"gpu{number}@bench"


def claim_on(case: Case, claimer: int) -> dict[str, Any]:
    """Claim, let the job fail, submit another one in its stead, for some seconds; the claims are timed.

    Returns: `{"ms": [each claim], "nothing": claims that found nothing, "refused": those that met a busy database,
    "loads": claims with a load, "cpu_s": processor time of this process for all of them, "jobs_s": seconds watched}`.
    """
    ledger = Ledger(case.settings)
    mine = [number for number in range(case.gpus) if number % case.claimers == claimer] or [claimer % case.gpus]
    gpus = itertools.cycle(mine)
    times: list[float] = []
    nothing = loads = refused = 0
    cpu_s = 0.0
    began_s = time.perf_counter()
    warm_until_s, ends_s = began_s + min(1.0, case.seconds / 4), began_s + case.seconds
    while (now_s := time.perf_counter()) < ends_s:
        number = next(gpus)
        before_s = time.process_time()
        try:
            claim = ledger.claims.claim(gpu_name(number))
        except LedgerUnavailable:
            # SQLite has one writer at a time, and lets nobody wait for longer than two seconds.
            claim, refused = None, refused + 1
        took_s = time.perf_counter() - now_s
        if now_s > warm_until_s:
            times.append(took_s * 1000)
            cpu_s += time.process_time() - before_s
            nothing += claim is None
            loads += getattr(claim, "load_s", 0) > 0
        if claim is not None:
            line = number % case.fitting_lines
            with contextlib.suppress(LedgerUnavailable):
                ledger.claims.fail(claim, DONE)
                ledger.jobs.submit(new_job(line))
    ledger.close()
    return {
        "ms": times,
        "nothing": nothing - refused,
        "refused": refused,
        "loads": loads,
        "cpu_s": cpu_s,
        "jobs_s": ends_s - warm_until_s,
    }


def _claim_in_process(case: Case, claimer: int, answers: Any) -> None:
    answers.put(claim_on(case, claimer))


def measure(case: Case) -> dict[str, Any]:
    """Let all claimers claim at once."""
    if case.claimers == 1:
        found = [claim_on(case, 0)]
    else:
        context = multiprocessing.get_context("fork")
        answers: Any = context.Queue()
        claimers = [
            context.Process(target=_claim_in_process, args=(case, number, answers)) for number in range(case.claimers)
        ]
        for claimer in claimers:
            claimer.start()
        found = [answers.get(timeout=120) for _ in claimers]
        for claimer in claimers:
            claimer.join(timeout=10)
    times = sorted(ms for each in found for ms in each["ms"])
    return {
        "claims": len(times),
        "nothing": sum(each["nothing"] for each in found),
        "refused": sum(each["refused"] for each in found),
        "loads": sum(each["loads"] for each in found),
        "cpu_ms": 1000 * sum(each["cpu_s"] for each in found) / max(1, len(times)),
        "median_ms": times[len(times) // 2],
        "p99_ms": times[min(len(times) - 1, int(len(times) * 0.99))],
        "per_s": len(times) / found[0]["jobs_s"],
    }


def main() -> None:
    asked = json.loads(sys.argv[1])
    is_filled = asked.pop("is_filled", False)
    case = Case(**asked)
    if not is_filled:
        fill(case)
    with contextlib.redirect_stdout(sys.stderr):
        figures = measure(case)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
