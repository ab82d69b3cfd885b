"""Rows of the ledger as the records the rest of the system knows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    bindparam,
    literal,
    or_,
    select,
    tuple_,
    union_all,
)

from core.ledger.database.stored_fields import RowReader
from core.ledger.database.tables import assets, jobs
from core.records.job import STATUSES, Job, Status
from core.records.output import BucketResult, FileSource, Output, OutputFile

#: Not read with a job: its graph and the like, which can be large, and what only claims and reruns look at.
_LEFT_OUT = ("graph", "shared_graph", "extra_pnginfo", "catalogues", "request_id", "secret_names", "hidden_at_ms")
JOB_COLUMNS = tuple(column for column in jobs.columns if column.name not in _LEFT_OUT)

#: Its outputs are rows of `assets`.
_JOB = RowReader(Job, without=("outputs", "missing_outputs"))
#: What is in storage, and what is known to be missing.
_STORED = select(assets).where(or_(assets.c.storage_key.is_not(None), assets.c.upload.is_not(None)))
#: The case on every client's path, built once.
_STORED_OF_ONE = _STORED.where(assets.c.job_id == bindparam("wanted")).order_by(assets.c.ordinal)


def newest(
    conditions: Sequence[ColumnElement[bool]], statuses: Collection[Status], *, limit: int, by_status: bool
) -> Select[Any]:
    """Return the query for the newest jobs that meet all conditions, with `JOB_COLUMNS`.

    Parameters:
      statuses: only these; empty means all.
      by_status: look for those of each status by themselves, by an index that has them in order. Else a tenant that has
        none of a status would have all its jobs looked through, of which there may be millions.
    """
    if not by_status:
        query = select(*JOB_COLUMNS).where(*conditions)
        return _ordered(query.where(jobs.c.status.in_(list(statuses))) if statuses else query, jobs.c, limit)
    place = (jobs.c.created_at_ms, jobs.c.id)
    each = [
        select(_ordered(select(*place).where(jobs.c.status == status, *conditions), jobs.c, limit).subquery())
        for status in (statuses or STATUSES)
    ]
    # Rows are wide, and a statement that names their columns once for each status takes longer than it saves.
    found = union_all(*each).subquery()
    first = _ordered(select(found.c.id, found.c.created_at_ms), found.c, limit).subquery()
    return _ordered(select(*JOB_COLUMNS).where(jobs.c.id.in_(select(first.c.id))), jobs.c, limit)


def _ordered(query: Select[Any], columns: Any, limit: int) -> Select[Any]:
    return query.order_by(columns.created_at_ms.desc(), columns.id.desc()).limit(limit)


def comes_after(table: Table, place: tuple[int, str]) -> ColumnElement[bool]:
    """Return the condition that a row stands behind a place in a list with the newest first.

    Compared as a whole, so that an index of both leads there: with two conditions, one of which is to hold, every row
    before that place would be looked at.

    Parameters: place - `(created_at_ms, id)` of the last row of the page before.
    """
    created_at_ms, row_id = place
    return tuple_(table.c.created_at_ms, table.c.id) < tuple_(literal(created_at_ms, BigInteger), literal(row_id))


def job_of(row: Row[Any], outputs: Iterable[Output] = ()) -> Job:
    """Return the job of a row that holds `JOB_COLUMNS`."""
    outputs = list(outputs)
    stored = [output for output in outputs if output.storage_key is not None]
    return Job(
        **_JOB.fields(row),
        outputs=tuple(replace(output, is_expired=True) if row.files_removed else output for output in stored),
        missing_outputs=tuple(output for output in outputs if output.storage_key is None),
    )


def output_of(row: Row[Any], *, is_expired: bool = False) -> Output:
    """Return an output record from a row of `assets`."""
    said = row.upload or {}
    return Output(
        id=row.id,
        job_id=row.job_id,
        node_id=row.node_id,
        name=row.name,
        kind=row.type,
        content_type=row.content_type,
        size_bytes=row.size_bytes,
        hash=row.hash,
        storage_key=row.storage_key,
        folder=row.comfy_type,
        comfy_key=row.comfy_key,
        subfolder=row.subfolder,
        created_at_ms=row.created_at_ms,
        bucket_result=BucketResult.from_json(said) if said.keys() & {"url", "error"} else None,
        conversion_error=said.get("conversion_error"),
        missing_reason=said.get("missing"),
        is_expired=is_expired,
    )


def output_file_of(row: Row[Any]) -> OutputFile:
    """Return an output that is not in storage yet, from a row of `assets`."""
    return OutputFile(**vars(output_of(row)), source=FileSource.from_json(row.source), ordinal=row.ordinal + 1)


def asset_row(file: OutputFile, *, attempt: int, ordinal: int, now: int) -> dict[str, Any]:
    """Return the row of an output that an attempt has made, stored or not; `ordinal` counts from 0."""
    return {
        "id": file.id,
        "job_id": file.job_id,
        "attempt": attempt,
        "ordinal": ordinal,
        "node_id": file.node_id,
        "name": file.name,
        "type": file.kind,
        "content_type": file.content_type,
        "comfy_type": file.folder,
        "comfy_key": file.comfy_key,
        "subfolder": file.subfolder,
        "source": file.source.to_json(),
        "size_bytes": file.size_bytes,
        "hash": file.hash,
        "storage_key": file.storage_key,
        "created_at_ms": now,
    }


def upload_column(output: Output) -> dict[str, Any] | None:
    """Return the column `upload` of an output in storage: how it fared in a bucket, and what is wrong with it."""
    said = {} if output.bucket_result is None else output.bucket_result.to_json()
    if output.conversion_error is not None:
        said["conversion_error"] = output.conversion_error
    return said or None


def outputs_of(connection: Connection, job_ids: Sequence[str]) -> dict[str, list[Output]]:
    """Return the outputs of each job that are stored, or missing for good, in the order the job produced them."""
    found: dict[str, list[Output]] = {}
    if len(job_ids) == 1:
        rows = connection.execute(_STORED_OF_ONE, {"wanted": job_ids[0]})
    else:
        rows = connection.execute(
            _STORED.where(assets.c.job_id.in_(job_ids)).order_by(assets.c.job_id, assets.c.ordinal)
        )
    for row in rows:
        found.setdefault(row.job_id, []).append(output_of(row))
    return found
