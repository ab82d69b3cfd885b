"""What the jobs of a batch made, over HTTP: as one archive, as a table, as a picture."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response, request

from api.http.caller import caller, links_for
from api.http.time_limits import ledger_time_limit
from api.schema import fields
from api.schema.described import BATCHES, Described, Parameter
from api.service.batch_results.archive import archive
from api.service.batch_results.children import children_of
from api.service.batch_results.entry_names import folder_name
from api.service.batch_results.sheet_pages import SheetFormat
from api.service.batch_results.sheets import Sheets
from api.service.batch_results.table import TableView, as_csv, as_json, varied_names
from api.service.jobs import check_id
from core.clock import now_ms
from core.contracts.comfy_v2 import timestamp
from core.errors import InvalidRequest, LedgerUnavailable, NotFound, QueueFull
from core.ledger import Ledger
from core.settings import Settings
from core.storage.backend import output_storage

MIN_CELL, MAX_CELL, DEFAULT_CELL = 64, 512, 256
MAX_PAGE = 100_000
_ERRORS = (NotFound, LedgerUnavailable)
_SHEET_PARAMETERS = (
    Parameter(
        name="page",
        place="query",
        description="Which page of the sheet; the header Sheet-Pages says how many there are.",
        schema={"type": "integer", "minimum": 1, "default": 1},
    ),
    Parameter(
        name="cell",
        place="query",
        description="The edge of a cell, in pixels.",
        schema={"type": "integer", "minimum": MIN_CELL, "maximum": MAX_CELL, "default": DEFAULT_CELL},
    ),
)
_SHEET_TEXT = (
    "The first picture of each job, with what was varied along the sides, in pages of up to 120. An extension."
)


def batch_results_blueprint(settings: Settings, ledger: Ledger, sheets: Sheets) -> Blueprint:
    """Return the routes of what batches made, under /api/v2/batches/{id}: extensions."""
    blueprint = Blueprint("batch_results", __name__, url_prefix="/api/v2/batches")

    @blueprint.get("/<batch_id>/outputs.zip")
    @Described(
        summary="All outputs of a batch as one ZIP",
        tag=BATCHES,
        scope="read",
        answers={200: "application/zip"},
        errors=_ERRORS,
        text="Made while it is sent. Of a batch that still runs it has what is there; manifest.json in it says which "
        "jobs there are, and how each stands. An extension.",
    )
    def outputs(batch_id: str) -> Response:
        _found(ledger, batch_id)
        folder = folder_name(batch_id)
        jobs = children_of(ledger, batch_id, of=caller().sees)
        pieces = archive(jobs, output_storage(settings), batch=batch_id, folder=folder, now=lambda: timestamp(now_ms()))
        return _streamed(pieces, "application/zip", f"{folder}.zip")

    @blueprint.get("/<batch_id>/table.json")
    @Described(
        summary="Parameters and outputs of a batch",
        tag=BATCHES,
        scope="read",
        answers={200: TableView},
        errors=_ERRORS,
        text="A row for each job, in the order of their places. An extension.",
    )
    def table_json(batch_id: str) -> Response:
        names = _found(ledger, batch_id)
        jobs = children_of(ledger, batch_id, of=caller().sees)
        return _streamed(as_json(batch_id, names, jobs, links_for(settings, ledger)), "application/json")

    @blueprint.get("/<batch_id>/table.csv")
    @Described(
        summary="Parameters and outputs of a batch as CSV",
        tag=BATCHES,
        scope="read",
        answers={200: "text/csv"},
        errors=_ERRORS,
        text="In UTF-8, with a line of names. An extension.",
    )
    def table_csv(batch_id: str) -> Response:
        names = _found(ledger, batch_id)
        jobs = children_of(ledger, batch_id, of=caller().sees)
        pieces = as_csv(names, jobs, links_for(settings, ledger))
        return _streamed(pieces, "text/csv; charset=utf-8", f"{folder_name(batch_id)}.csv")

    @blueprint.get("/<batch_id>/sheet.png")
    @Described(
        summary="A batch as a contact sheet",
        tag=BATCHES,
        scope="read",
        answers={200: "image/png"},
        errors=(*_ERRORS, InvalidRequest, QueueFull),
        parameters=_SHEET_PARAMETERS,
        text=_SHEET_TEXT,
    )
    def sheet_png(batch_id: str) -> Response:
        return _sheet(sheets, batch_id, "png")

    @blueprint.get("/<batch_id>/sheet.webp")
    @Described(
        summary="A batch as a contact sheet in WebP",
        tag=BATCHES,
        scope="read",
        answers={200: "image/webp"},
        errors=(*_ERRORS, InvalidRequest, QueueFull),
        parameters=_SHEET_PARAMETERS,
        text=_SHEET_TEXT,
    )
    def sheet_webp(batch_id: str) -> Response:
        return _sheet(sheets, batch_id, "webp")

    return blueprint


def _found(ledger: Ledger, batch_id: str) -> list[str]:
    """Return the names of what was varied in a batch. Raises NotFound."""
    with ledger_time_limit():
        return varied_names(ledger.batch_children.outline(check_id(batch_id), of=caller().sees))


def _sheet(sheets: Sheets, batch_id: str, kind: SheetFormat) -> Response:
    page = fields.whole_number("page", request.args.get("page"), 1, least=1, most=MAX_PAGE)
    cell = request.args.get("cell")
    cell_px = fields.whole_number("cell", cell, DEFAULT_CELL, least=MIN_CELL, most=MAX_CELL)
    sheet = sheets.find(check_id(batch_id), of=caller().sees, page=page, cell_px=cell_px, kind=kind)
    headers = {"Sheet-Pages": str(sheet.page.pages), "Cache-Control": "private, no-cache"}
    if sheet.tag in request.if_none_match:
        answer = Response(status=304, headers=headers)
        answer.set_etag(sheet.tag)
        return answer
    content, is_final = sheets.made(sheet)
    answer = Response(content, headers=headers, content_type=f"image/{kind}")
    if is_final:
        answer.set_etag(sheet.tag)
    return answer


def _streamed(pieces: Iterator[bytes], content_type: str, name: str | None = None) -> Response:
    """Return an answer that is made while it is sent; the server closes `pieces` when its client hangs up."""
    answer = Response(pieces, content_type=content_type, direct_passthrough=True)
    answer.headers["Cache-Control"] = "private, no-store"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    if name is not None:
        answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer
