"""Rows of the ledger as the records the rest of the system knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, bindparam, or_, select

from core.ledger.database.stored_fields import RowReader
from core.ledger.database.tables import assets, jobs
from core.records.job import Job
from core.records.output import BucketResult, FileSource, Output, OutputFile

#: Every column of a job but its graph and the like, which can be large, and what only claims look at.
JOB_COLUMNS = tuple(
    column for column in jobs.columns if column.name not in ("graph", "extra_pnginfo", "catalogues", "request_id")
)

#: Its outputs are rows of `assets`.
_JOB = RowReader(Job, without=("outputs", "missing_outputs"))
#: What is in storage, and what is known to be missing.
_STORED = select(assets).where(or_(assets.c.storage_key.is_not(None), assets.c.upload.is_not(None)))
#: The case on every client's path, built once.
_STORED_OF_ONE = _STORED.where(assets.c.job_id == bindparam("wanted")).order_by(assets.c.ordinal)


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
