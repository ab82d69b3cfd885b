"""Jobs that have ended, by the million: made by PostgreSQL itself, without its indexes, which are built afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psycopg

from core.clock import now_ms

#: The share of jobs that are past their time.
EXPIRED = 0.02
DAY_MS = 24 * 3600 * 1000
TABLES = ("jobs", "events", "assets", "job_logs")
GRAPH = json.dumps(json.loads((Path(__file__).parent.parent.parent / "workflows" / "demo.json").read_text()))


def put_ended(url: str, count: int, *, say: Callable[[str], None]) -> None:
    """Put ended jobs of a week into an empty ledger: 94% succeeded, of 20 tenants, with events, a file and a log."""
    with psycopg.connect(url) as connection:
        # What is written into tables that were emptied in the same transaction need not go into PostgreSQL's log.
        connection.execute(f"TRUNCATE {', '.join(TABLES)} CASCADE")
        rebuilt = _strip(connection)
        for what, statement in _statements(count).items():
            say(f"{count:,} jobs: {what}")
            connection.execute(statement)
        for statement in rebuilt:
            say(f"{count:,} jobs: {statement[:70]}")
            connection.execute(statement)


def _strip(connection: psycopg.Connection) -> list[str]:
    """Drop indexes and keys; returns what makes them again, in the order in which it has to be done."""
    of = f"ANY('{{{','.join(TABLES)}}}'::regclass[])"
    kinds = "CASE contype WHEN 'f' THEN 1 ELSE 0 END"
    constraints = connection.execute(
        f"SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        f"WHERE (conrelid = {of} OR confrelid = {of}) AND contype IN ('p', 'u', 'f') ORDER BY {kinds}"
    ).fetchall()
    for table, name, _ in reversed(constraints):
        connection.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
    indexes = connection.execute(
        f"SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = {of}"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    made = [f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}' for table, name, definition in constraints]
    keys = [each for each in made if "FOREIGN KEY" not in each]
    return [*keys, *(definition for _, definition in indexes), *(each for each in made if each not in keys)]


def _statements(count: int) -> dict[str, str]:
    now = now_ms()
    first_ms = now - 7 * DAY_MS
    # The oldest of them are past their time.
    came = f"{first_ms} + (n::bigint * {7 * DAY_MS} / {count})"
    expires = f"({came}) + {7 * DAY_MS} + 60000 - {round(EXPIRED * 7 * DAY_MS)}"
    columns = {
        "id": "gen_random_uuid()::text",
        "tenant": "'tenant' || n % 20",
        "label": "CASE WHEN n % 100 = 0 THEN 'label' || n % 1000 / 100 END",
        "contract": "'v2'",
        "status": "CASE WHEN n % 100 < 94 THEN 'succeeded' WHEN n % 100 < 99 THEN 'failed' ELSE 'canceled' END",
        "attempt": "1",
        "lost_attempts": "0",
        "instance": "'gpu' || n % 64 || '@host' || n % 8",
        "last_seq": "3",
        "priority": "0",
        "nodes_total": "7",
        "graph": f"$graph${GRAPH}$graph$",
        "line": "1 + n % 100",
        "shape": "md5((n % 500)::text)",
        "traceparent": "'00-' || md5(n::text) || '-' || left(md5((n + 1)::text), 16) || '-01'",
        "progress": '\'{"value":1.0,"nodes_done":7,"nodes_total":7}\'::json',
        "created_at_ms": came,
        "updated_at_ms": f"{came} + 9000",
        "started_at_ms": f"{came} + 5000",
        "generated_at_ms": f"{came} + 8900",
        "completed_at_ms": f"{came} + 9000",
        "run_ms": "4000",
        "expires_at_ms": expires,
        "files_expire_at_ms": expires,
    }
    # What hangs on a job matters where it is shown or removed: on the newest and the oldest of them.
    edges = f"created_at_ms < {first_ms + 2 * round(EXPIRED * 7 * DAY_MS)} OR created_at_ms > {now - DAY_MS // 10}"
    file = f"""INSERT INTO assets (id, job_id, attempt, ordinal, node_id, name, type, content_type, comfy_type,
        comfy_key, subfolder, source, size_bytes, hash, storage_key, created_at_ms)
        SELECT gen_random_uuid()::text, id, 1, 0, '9', 'picture_00001_.png', 'image', 'image/png', 'output', 'images',
        '', '{{}}'::json, 1500000, 'blake3:' || md5(id) || md5(id), id || '/picture_00001_.png', created_at_ms
        FROM jobs WHERE status = 'succeeded' AND ({edges})"""
    printed = "got prompt\nRequested to load SDXL\nloaded completely 9.5 GB\nPrompt executed in 4.02 seconds\n"
    return {
        "jobs": f"INSERT INTO jobs ({', '.join(columns)}) "
        f"SELECT {', '.join(columns.values())} FROM generate_series(0, {count - 1}) AS numbers(n)",
        "events": "INSERT INTO events (job_id, seq, type, data, at_ms) "
        "SELECT id, seq, 'status', json_build_object('status', CASE seq WHEN 1 THEN 'queued' WHEN 2 THEN 'running' "
        "ELSE status END), created_at_ms FROM jobs, generate_series(1, 3) AS seqs(seq) "
        f"WHERE seq = 3 OR {edges}",
        "files": file,
        "logs": "INSERT INTO job_logs (job_id, number, attempt, text, size_bytes, is_last, at_ms) "
        f"SELECT id, 1000001, 1, $text${printed}$text$, {len(printed)}, true, completed_at_ms FROM jobs WHERE {edges}",
    }
