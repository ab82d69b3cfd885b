"""The parameters and outputs of a batch, a row for each job: as CSV and as JSON, made while they are sent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from core.contracts.comfy_v2 import SHOWN, ShownStatus, error_view
from core.ledger.batches.children import Child
from core.links import Links
from core.records.job import Job
from core.texts.json_types import JsonObject
from core.texts.spreadsheets import as_text

#: What stands before and after what was varied.
BEFORE = ("index", "job_id", "status")
AFTER = ("seed", "seconds", "error_code", "error", "outputs")
#: What an output says of itself stands in one cell.
MESSAGE_CHARS = 500
_SEEDS = ("seed", "noise_seed")
#: A spreadsheet takes what begins so for a formula.


class TableErrorView(TypedDict):
    code: str
    message: str


class TableOutputView(TypedDict):
    name: str
    type: str
    url: str


class TableRowView(TypedDict):
    """A job of the batch."""

    index: int
    job_id: str
    status: ShownStatus
    varied: JsonObject
    seed: Annotated[int | None, Field(description="Of what was varied, else of its template; null: neither says.")]
    seconds: Annotated[float | None, Field(description="On the GPU, the last attempt's.")]
    error: TableErrorView | None
    outputs: list[TableOutputView]


class TableView(TypedDict):
    """A batch as a table."""

    batch: str
    varied: Annotated[list[str], Field(description="Names of what was varied, in the order they first come up.")]
    rows: list[TableRowView]


def varied_names(children: Iterable[Child]) -> list[str]:
    """Return the names of all that was varied in a batch, in the order they first come up."""
    return list(dict.fromkeys(name for child in children for name in child.varied))


def as_json(batch: str, names: list[str], jobs: Iterable[Job], links: Links) -> Iterator[bytes]:
    """Yield a `TableView` as JSON, row by row."""
    yield f'{{"batch": {json.dumps(batch)}, "varied": {json.dumps(names)}, "rows": ['.encode()
    for number, job in enumerate(jobs):
        yield ((",\n" if number else "\n") + json.dumps(row_of(job, links))).encode()
    yield b"\n]}\n"


def as_csv(names: list[str], jobs: Iterable[Job], links: Links) -> Iterator[bytes]:
    """Yield the table as CSV in UTF-8, row by row: RFC 4180, the URLs of outputs with blanks between them.

    Texts of clients that a spreadsheet would take for formulas have an apostrophe before them.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    # A seed has its column already.
    own = [name for name in names if name != "seed"]
    fixed = {*BEFORE, *AFTER}
    writer.writerow([*BEFORE, *(as_text(f"varied.{name}" if name in fixed else name) for name in own), *AFTER])
    for job in jobs:
        row = row_of(job, links)
        error = row["error"]
        writer.writerow(
            [
                *(row["index"], row["job_id"], row["status"]),
                *(_cell(row["varied"].get(name)) for name in own),
                *("" if row["seed"] is None else row["seed"], "" if row["seconds"] is None else row["seconds"]),
                *((error["code"], as_text(error["message"])) if error else ("", "")),
                " ".join(output["url"] for output in row["outputs"]),
            ]
        )
        yield text.getvalue().encode("utf-8", "replace")
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode("utf-8", "replace")


def row_of(job: Job, links: Links) -> TableRowView:
    """Return the row of a job."""
    error = error_view(job)
    return {
        "index": job.batch_index or 0,
        "job_id": job.id,
        "status": SHOWN[job.status],
        "varied": job.varied or {},
        "seed": seed_of(job),
        "seconds": _seconds(job),
        "error": None if error is None else {"code": error["code"], "message": error["message"][:MESSAGE_CHARS]},
        "outputs": [
            {
                "name": output.name,
                "type": output.kind,
                "url": links.content(output.id, until_ms=job.files_expire_at_ms).url,
            }
            for output in job.outputs
        ],
    }


def seed_of(job: Job) -> int | None:
    """Return the seed of a job, as far as what was varied or its template's parameters say it."""
    said: Mapping[str, Any] = {**(job.parameters or {}), **(job.varied or {})}
    found = [value for name, value in said.items() if name.lower().rpartition(".")[2] in _SEEDS]
    return found[-1] if found and isinstance(found[-1], int) and not isinstance(found[-1], bool) else None


def _seconds(job: Job) -> float | None:
    if job.started_at_ms is None or job.generated_at_ms is None:
        return None
    return max(0, job.generated_at_ms - job.started_at_ms) / 1000


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return as_text(value)
    return "" if value is None else json.dumps(value)
