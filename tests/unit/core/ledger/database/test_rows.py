"""Rows of jobs and their outputs as records: what is stored, what is missing, what has expired."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Row, insert, select, update

from core.ledger import Ledger
from core.ledger.database.rows import (
    JOB_COLUMNS,
    asset_row,
    job_of,
    output_file_of,
    output_of,
    outputs_of,
    upload_column,
)
from core.ledger.database.tables import assets, jobs
from core.records.output import BucketResult, FileSource, Output, OutputFile
from tests.ledger_moves import generated, set_columns, submit

FILE = OutputFile(
    id="f",
    job_id="j",
    node_id="9",
    name="n.png",
    kind="image",
    content_type="image/png",
    folder="temp",
    comfy_key="gifs",
    subfolder="s",
    source=FileSource(url="u"),
)


def row_of(ledger: Ledger, **columns: Any) -> Row[Any]:
    """The row of `FILE` as it is after its attempt, but for these columns."""
    job_id = submit(ledger).id
    made = asset_row(replace(FILE, job_id=job_id), attempt=3, ordinal=4, now=55)
    with ledger.database.write() as transaction:
        transaction.connection.execute(insert(assets).values({**made, **columns}))
        return transaction.connection.execute(select(assets)).one()


def set_all(connection: Connection, job_id: str, **columns: Any) -> None:
    connection.execute(update(assets).where(assets.c.job_id == job_id).values(**columns))


class TestOutput:
    def test_on_its_way(self, ledger: Ledger) -> None:
        row = row_of(ledger)
        assert (row.attempt, row.ordinal, row.size_bytes, row.created_at_ms) == (3, 4, 0, 55)
        expected = replace(FILE, job_id=row.job_id, created_at_ms=55, ordinal=5)
        assert output_file_of(row) == expected

    def test_in_storage(self, ledger: Ledger) -> None:
        row = row_of(ledger, size_bytes=7, hash="h", storage_key="k")
        found = output_of(row)
        assert (found.size_bytes, found.hash, found.storage_key) == (7, "h", "k")
        assert (found.folder, found.comfy_key, found.subfolder) == ("temp", "gifs", "s")
        assert (found.bucket_result, found.conversion_error, found.missing_reason) == (None, None, None)
        assert not found.is_expired
        assert output_of(row, is_expired=True).is_expired

    @pytest.mark.parametrize(
        ("upload", "result", "conversion_error", "missing_reason"),
        [
            ({"url": "u", "key": "k"}, BucketResult(url="u", key="k"), None, None),
            ({"url": None, "key": "k"}, BucketResult(key="k"), None, None),
            ({"error": "e"}, BucketResult(error="e"), None, None),
            ({"conversion_error": "c"}, None, "c", None),
            ({"url": "u", "conversion_error": "c"}, BucketResult(url="u"), "c", None),
            ({"missing": "m"}, None, None, "m"),
        ],
    )
    def test_what_became_of_it(
        self,
        ledger: Ledger,
        upload: dict[str, Any],
        result: BucketResult | None,
        conversion_error: str | None,
        missing_reason: str | None,
    ) -> None:
        found = output_of(row_of(ledger, upload=upload))
        assert (found.bucket_result, found.conversion_error) == (result, conversion_error)
        assert found.missing_reason == missing_reason

    @pytest.mark.parametrize(
        ("fields", "column"),
        [
            ({}, None),
            ({"bucket_result": BucketResult(url="u")}, {"url": "u"}),
            ({"conversion_error": "c"}, {"conversion_error": "c"}),
            (
                {"bucket_result": BucketResult(error="e"), "conversion_error": ""},
                {"error": "e", "conversion_error": ""},
            ),
        ],
    )
    def test_what_is_written_of_that(self, fields: dict[str, Any], column: dict[str, Any] | None) -> None:
        assert upload_column(replace(FILE, **fields)) == column


class TestOutputsOf:
    def test_those_in_storage_or_missing_in_order(self, ledger: Ledger) -> None:
        one, other = generated(ledger, files=3), generated(ledger, files=2, instance="gpu1@here")
        with ledger.database.write() as transaction:
            connection = transaction.connection
            for claim in (one, other):
                set_all(connection, claim.job_id, storage_key="k", ordinal=-assets.c.ordinal)
            last = update(assets).where(assets.c.name == "out_00002_.png")
            connection.execute(last.values(storage_key=None))
            middle = update(assets).where(assets.c.name == "out_00001_.png")
            connection.execute(middle.values(storage_key=None, upload={"missing": "m"}))
            found = outputs_of(connection, [one.job_id, other.job_id])
            assert set(found) == {one.job_id, other.job_id}
            for outputs in found.values():
                assert [output.name for output in outputs] == ["out_00001_.png", "out_00000_.png"]
            assert outputs_of(connection, [one.job_id]) == {one.job_id: found[one.job_id]}
            assert outputs_of(connection, []) == {}

    def test_a_job_without_any_is_left_out(self, ledger: Ledger) -> None:
        job_id = submit(ledger).id
        with ledger.database.read() as connection:
            assert outputs_of(connection, [job_id]) == outputs_of(connection, [job_id, "x"]) == {}


class TestJob:
    @pytest.mark.parametrize("is_expired", [False, True])
    def test_with_what_is_stored_and_what_is_missing(self, ledger: Ledger, is_expired: bool) -> None:
        job = submit(ledger)
        set_columns(ledger, job.id, files_removed=is_expired)
        with ledger.database.read() as connection:
            row = connection.execute(select(*JOB_COLUMNS).where(jobs.c.id == job.id)).one()
        stored = Output(**{name: getattr(FILE, name) for name in Output.__dataclass_fields__} | {"storage_key": "k"})
        missing = replace(stored, storage_key=None, missing_reason="m")
        found = job_of(row, iter([missing, stored]))
        assert found.outputs == (replace(stored, is_expired=is_expired),)
        assert found.missing_outputs == (missing,)
        assert job_of(row) == replace(job, files_removed=is_expired)

    def test_what_can_be_large_is_left_alone(self) -> None:
        names = {column.name for column in JOB_COLUMNS}
        assert {column.name for column in jobs.columns} - names == {
            "graph",
            "shared_graph",
            "extra_pnginfo",
            "catalogues",
            "request_id",
            "secret_names",
            "hidden_at_ms",
        }
