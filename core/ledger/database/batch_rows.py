"""Rows of batches as records, and the counts of their jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select

from core.ledger.database.batch_tables import batches
from core.ledger.database.stored_fields import RowReader
from core.ledger.database.tables import jobs
from core.records.batch import Batch, BatchSpec
from core.records.job import STATUSES, TERMINAL, Status

#: Fields that a batch has from its beginning.
BEGUN = (*(field.name for field in fields(BatchSpec)), "id", "created_at_ms", "next_index")
#: All columns but what only further jobs are made of.
BATCH_COLUMNS = tuple(column for column in batches.columns if column.name not in ("source", "common", "request_mark"))
#: Statuses of jobs that a batch waits for.
OPEN = tuple(status for status in STATUSES if status not in TERMINAL)

_BATCH = RowReader(Batch, without=("counts",))
_COUNTS = (
    select(jobs.c.batch, jobs.c.status, func.count().label("jobs"))
    .where(jobs.c.batch.in_(bindparam("wanted", expanding=True)))
    .group_by(jobs.c.batch, jobs.c.status)
)
_FIRST_OPEN = select(jobs.c.id).where(jobs.c.batch == bindparam("wanted_batch"), jobs.c.status.in_(OPEN)).limit(1)


def batch_of(row: Row[Any], counts: Mapping[Status, int] | None = None) -> Batch:
    """Return the batch of a row that holds `BATCH_COLUMNS`. Parameters: counts - those of now, where it is not over."""
    return Batch(**_BATCH.fields(row), counts=dict(row.counts or {} if counts is None else counts))


def batches_of(connection: Connection, rows: Collection[Row[Any]]) -> list[Batch]:
    """Return the batches of several rows; jobs are counted only of those that are not over."""
    counts = counts_of(connection, [row.id for row in rows if row.counts is None])
    return [batch_of(row, counts.get(row.id)) for row in rows]


def counts_of(connection: Connection, batch_ids: Collection[str]) -> dict[str, dict[Status, int]]:
    """Return how many jobs batches have, by status; `{}` for one that has none."""
    found: dict[str, dict[Status, int]] = {batch_id: {} for batch_id in batch_ids}
    if batch_ids:
        for row in connection.execute(_COUNTS, {"wanted": list(batch_ids)}):
            found[row.batch][row.status] = row.jobs
    return found


def has_open(connection: Connection, batch_id: str) -> bool:
    """Return whether a job of the batch has not ended."""
    return connection.execute(_FIRST_OPEN, {"wanted_batch": batch_id}).scalar() is not None
