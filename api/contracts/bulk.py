"""Jobs that are there already, over HTTP: one of them once more, and many of them cancelled or deleted at once."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response, request
from pydantic import Field
from typing_extensions import TypedDict

from api.contracts.comfy_v2.views import JobView, job_view
from api.http.caller import base_url, links_for
from api.http.errors import InvalidMetadata, MoreMatch, NotAllowed, json_response
from api.http.json_body import has_body, read_json
from api.schema import fields
from api.schema.bulk_bodies import BulkBody, RerunBody
from api.schema.described import IDEMPOTENCY_KEY, JOBS, SUBMIT_ERRORS, Described
from api.schema.validation import read
from api.service.bulk_work import CANCEL, DELETE, Action, BulkResult, BulkService
from api.service.jobs import JobService
from api.service.reruns import Reruns
from core.contracts.comfy_v2 import SHOWN, ShownStatus, timestamp
from core.errors import IdempotencyKeyReuse, LedgerUnavailable, NotFound, StorageUnavailable
from core.ledger import Ledger
from core.settings import Settings

_HOW = (
    "Without confirm the jobs are counted, and nothing happens to them; sent again with the confirm of that answer, it "
    "is done to those that were counted. Where left is not 0, the same request goes on. An extension."
)


class BulkView(TypedDict):
    """Jobs that were counted, or what was done to them."""

    dry_run: Annotated[bool, Field(description="True: they were counted, and nothing was done.")]
    matched: Annotated[int, Field(description="How many were counted.")]
    by_status: Annotated[dict[ShownStatus, int], Field(description="How many there are of them now.")]
    done: Annotated[int, Field(description="How many this request did it to.")]
    left: Annotated[int, Field(description="How many the same request, sent again, goes on with.")]
    confirm: Annotated[str, Field(description="To be repeated, to have it done.")]
    confirm_until: Annotated[str, Field(description="Until when that is good.")]


def bulk_blueprint(
    settings: Settings, ledger: Ledger, service: JobService, reruns: Reruns, bulk: BulkService
) -> Blueprint:
    """Return the routes /api/v2/jobs/{id}/rerun and /api/v2/bulk/...: extensions."""
    blueprint = Blueprint("bulk", __name__, url_prefix="/api/v2")

    @blueprint.post("/jobs/<job_id>/rerun")
    @Described(
        summary="Run a job once more",
        tag=JOBS,
        body=RerunBody,
        is_optional=True,
        scope="submit",
        answers={201: JobView},
        errors=(NotFound, *SUBMIT_ERRORS, IdempotencyKeyReuse, InvalidMetadata),
        parameters=(IDEMPOTENCY_KEY,),
        text="With its values, or with changes; seeds that were drawn are drawn anew. An extension.",
    )
    def rerun(job_id: str) -> Response:
        key = fields.idempotency_key(request.headers.get("Idempotency-Key"))
        body = read(RerunBody, read_json(settings)) if has_body() else RerunBody()
        job = service.submit(reruns.request(job_id, body, base_url=base_url(settings), idempotency_key=key))
        return json_response(job_view(job, links_for(settings, ledger)), 201)

    @blueprint.post("/bulk/cancel")
    @Described(
        summary="Cancel many jobs",
        tag=JOBS,
        body=BulkBody,
        scope="cancel",
        answers={200: BulkView},
        errors=(MoreMatch, NotAllowed, LedgerUnavailable),
        text=_HOW,
    )
    def cancel() -> Response:
        return _answer(CANCEL)

    @blueprint.post("/bulk/delete")
    @Described(
        summary="Remove many ended jobs and their files",
        tag=JOBS,
        body=BulkBody,
        scope="cancel",
        answers={200: BulkView},
        errors=(MoreMatch, NotAllowed, LedgerUnavailable, StorageUnavailable),
        text=_HOW,
    )
    def delete() -> Response:
        return _answer(DELETE)

    def _answer(action: Action) -> Response:
        return json_response(_view(bulk.run(action, read(BulkBody, read_json(settings)))))

    return blueprint


def _view(result: BulkResult) -> BulkView:
    by_status: dict[ShownStatus, int] = {}
    for status, count in result.by_status.items():
        by_status[SHOWN[status]] = by_status.get(SHOWN[status], 0) + count
    return {
        "dry_run": result.is_dry,
        "matched": result.matched,
        "by_status": by_status,
        "done": result.done,
        "left": result.left,
        "confirm": result.confirm,
        "confirm_until": timestamp(result.confirm_until_ms),
    }
