"""Dry runs beside the submissions that they speak of, and all that a server keeps."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import Column, Table, select, update

from core.clock import now_ms
from core.ledger import Ledger
from core.ledger.database.tables import instances, metadata
from tests.integration.api_fixtures import Api

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def dry(api: Api, body: Any, path: str = "/api/v2/jobs", **options: Any) -> dict[str, Any]:
    """The report of a dry run."""
    answer = api.post(f"{path}?dry_run=true", body, **options)
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = answer.json()
    assert report["dry_run"] is True
    assert report["accepted"] == (report["problems"] == [])
    return report


@contextmanager
def beating(api: Api) -> Iterator[None]:
    """Have all instances be heard of, as workers are, however slow the machine is."""
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(2):
            with api.ledger.database.write() as transaction:
                transaction.connection.execute(update(instances).values(heartbeat_at_ms=now_ms()))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def kept(api: Api) -> dict[str, Any]:
    """Every row of the ledger, and every file."""
    return {**rows(api.ledger), **files(api.settings.data_dir)}


def rows(ledger: Ledger) -> dict[str, Any]:
    """All but when instances were heard of, by table."""
    with ledger.database.read() as connection:
        return {
            table.name: sorted(repr(tuple(row)) for row in connection.execute(select(*_columns(table))))
            for table in metadata.sorted_tables
        }


def _columns(table: Table) -> list[Column[Any]]:
    return [column for column in table.c if column.name != "heartbeat_at_ms"]


def files(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and ".db" not in path.name and ".sqlite" not in path.name and path.suffix != ".log"
    }


def told(answer: requests.Response) -> tuple[int, Any]:
    """A refusal, without ids that are drawn each time."""
    return answer.status_code, _without_ids(answer.json()["error"])


def same_verdict(api: Api, body: Any, path: str = "/api/v2/jobs", **options: Any) -> Mapping[str, Any] | None:
    """Try a request, then make it, and hold the one against the other.

    Returns: the report; None where the dry run was refused as the request was.
    """
    if not options:
        options = {"json": body}
    tried = api.post(f"{path}?dry_run=true", **options)
    made = api.post(path, **options)
    if tried.status_code != 200:
        assert told(tried) == told(made)
        return None
    report: dict[str, Any] = tried.json()
    if made.status_code in (200, 201):
        assert report["problems"] == [], report
        assert report["accepted"]
        return report
    first = report["problems"][0]
    assert (first["status"], _without_ids(first["error"])) == told(made)
    assert not report["accepted"]
    return report


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        # Of a 503 alone: it is each request's own.
        return {_without_ids(name): _without_ids(inner) for name, inner in value.items() if name != "request_id"}
    if isinstance(value, list):
        return [_without_ids(inner) for inner in value]
    return _ID.sub("ID", value) if isinstance(value, str) else value
