"""Batches over HTTP: many jobs from one request. This blueprint only translates."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from hashlib import sha256
from http import HTTPStatus

from flask import Blueprint, Response, request

from api.contracts.batches.views import (
    BatchJobsView,
    BatchPageView,
    BatchView,
    batch_view,
    listed_view,
)
from api.contracts.comfy_v2.dry_run_views import BatchDryRunView, batch_dry_run_view
from api.contracts.comfy_v2.views import list_item
from api.http.caller import base_url, caller, links_for
from api.http.errors import BadParameter, InvalidCursor, InvalidMetadata, NotAllowed, json_response
from api.http.json_body import has_body, read_json
from api.http.time_limits import bounded
from api.schema import fields
from api.schema.batch_bodies import BatchBody, MoreJobsBody, RetryBody
from api.schema.described import (
    BATCHES,
    CURSOR,
    DRY_RUN,
    IDEMPOTENCY_KEY,
    SUBMIT_ERRORS,
    Described,
    Parameter,
    limit_of,
)
from api.schema.validation import read
from api.service.batches.causes import Causes
from api.service.batches.outlook import time_left_s
from api.service.batches.service import BatchService
from api.service.dry_runs.asked import is_dry_run
from api.service.dry_runs.batch_trial import BatchDryRuns
from api.service.estimates import Estimates
from api.service.jobs import check_id
from core.errors import IdempotencyKeyReuse, LedgerUnavailable, LimitReached, NotFound, QueueFull
from core.ledger import Ledger
from core.records.batch import STATES, Batch, BatchState
from core.settings import Settings
from core.texts.stored_json import json_text

#: Filters by varied values of one request.
MAX_VARIED = 8
#: Names of what was varied that an error tells.
MAX_NAMED = 20
_VARIED = re.compile(r"varied\[(.*)\]", re.DOTALL)
LIST_PARAMETERS = (
    limit_of(),
    CURSOR,
    Parameter(
        name="status",
        place="query",
        description=f"One or more of {', '.join(STATES)}, separated by commas.",
        schema={"type": "string"},
    ),
    Parameter(
        name="label",
        place="query",
        description="Only batches with this label.",
        schema={"type": "string", "minLength": 1, "maxLength": fields.MAX_LABEL_CHARS},
    ),
)
JOBS_PARAMETERS = (
    limit_of(),
    CURSOR,
    Parameter(name="status", place="query", description="One or more, separated by commas.", schema={"type": "string"}),
    Parameter(
        name="varied",
        place="query",
        description=f"varied[name]=value: what was varied, all of which must match, at most {MAX_VARIED}. Numbers "
        "match by their value, so 1 and 1.0 are the same; a name that was not varied is refused.",
        schema={"type": "object", "additionalProperties": {"type": "string"}},
        style="deepObject",
    ),
)


def batches_blueprint(
    settings: Settings, ledger: Ledger, service: BatchService, estimates: Estimates, dry_runs: BatchDryRuns
) -> Blueprint:
    """Return the routes under /api/v2/batches."""
    blueprint = Blueprint("batches", __name__, url_prefix="/api/v2/batches")
    causes = Causes(ledger)

    def shown(batch: Batch, status: int = 200) -> Response:
        # What has just come is in no look at the queue yet, and its client waits for an id and not for an estimate.
        left_s = None if status == HTTPStatus.CREATED else time_left_s(batch, ledger, estimates)
        view: BatchView = batch_view(batch, base_url(settings), errors=causes.of(batch), time_left_s=left_s)
        return json_response(view, status)

    @blueprint.post("")
    @Described(
        summary="Submit many jobs at once",
        tag=BATCHES,
        body=BatchBody,
        scope="submit",
        answers={201: BatchView, 200: BatchDryRunView},
        errors=(*SUBMIT_ERRORS, IdempotencyKeyReuse, InvalidMetadata),
        parameters=(IDEMPOTENCY_KEY, DRY_RUN),
        text="All jobs are recorded, or none. The same request under its Idempotency-Key is answered with the batch it "
        "has, for as long as that is kept.",
    )
    def submit() -> Response:
        is_dry = is_dry_run()
        key = fields.idempotency_key(request.headers.get("Idempotency-Key"))
        value = read_json(settings)
        digest = sha256(json_text(value).encode()).digest()
        body = read(BatchBody, value)
        if is_dry:
            found = dry_runs.of(body, key=key, digest=digest, base_url=base_url(settings))
            return json_response(batch_dry_run_view(found))
        return shown(service.submit(body, key=key, digest=digest, base_url=base_url(settings)), 201)

    @blueprint.get("")
    @Described(
        summary="List batches, the newest first",
        tag=BATCHES,
        scope="read",
        answers={200: BatchPageView},
        errors=(InvalidCursor, BadParameter, LedgerUnavailable),
        parameters=LIST_PARAMETERS,
    )
    @bounded
    def every() -> Response:
        limit = fields.limit(request.args.get("limit"))
        page = ledger.batches.page(
            of=caller().sees,
            label=fields.label_filter(request.args.get("label")),
            states=_states(request.args.get("status")),
            after=fields.decode_cursor(request.args.get("cursor")),
            limit=limit + 1,
        )
        more = page[limit - 1] if len(page) > limit else None
        view: BatchPageView = {
            "batches": [listed_view(batch, base_url(settings)) for batch in page[:limit]],
            "next_cursor": None if more is None else fields.encode_cursor(more.created_at_ms, more.id),
        }
        return json_response(view)

    @blueprint.get("/<batch_id>")
    @Described(
        summary="A batch as it stands",
        tag=BATCHES,
        scope="read",
        answers={200: BatchView},
        errors=(NotFound, LedgerUnavailable),
    )
    @bounded
    def get(batch_id: str) -> Response:
        return shown(service.get(batch_id))

    @blueprint.get("/<batch_id>/jobs")
    @Described(
        summary="The jobs of a batch, by their places",
        tag=BATCHES,
        scope="read",
        answers={200: BatchJobsView},
        errors=(NotFound, InvalidCursor, BadParameter, LedgerUnavailable),
        parameters=JOBS_PARAMETERS,
    )
    @bounded
    def children(batch_id: str) -> Response:
        over = ledger.batches.over_names(check_id(batch_id), of=caller().sees)
        limit = fields.limit(request.args.get("limit"))
        varied = _varied_filters()
        _refuse_unknown(ledger, batch_id, over, varied)
        page = ledger.batch_children.page(
            batch_id,
            of=caller().sees,
            statuses=fields.statuses(request.args.get("status")),
            varied=varied,
            after=fields.number_cursor(request.args.get("cursor"), digits=9),
            limit=limit + 1,
        )
        places = estimates.places(page[:limit])
        links = links_for(settings, ledger)
        view: BatchJobsView = {
            "jobs": [list_item(job, links, place=places.get(job.id)) for job in page[:limit]],
            "next_cursor": str(page[limit - 1].batch_index) if len(page) > limit else None,
        }
        return json_response(view)

    @blueprint.post("/<batch_id>/jobs")
    @Described(
        summary="Add jobs to a batch",
        tag=BATCHES,
        body=MoreJobsBody,
        scope="submit",
        answers={201: BatchView},
        errors=(*SUBMIT_ERRORS, NotFound, InvalidMetadata),
        parameters=(IDEMPOTENCY_KEY,),
        text="All of them, or none. What comes again under its Idempotency-Key within 24 hours is not added again.",
    )
    def add(batch_id: str) -> Response:
        key = fields.idempotency_key(request.headers.get("Idempotency-Key"))
        body = read(MoreJobsBody, read_json(settings))
        return shown(service.add(batch_id, body, key=key), 201)

    @blueprint.post("/<batch_id>/cancel")
    @Described(
        summary="Ask for the end of all jobs of a batch",
        tag=BATCHES,
        scope="cancel",
        answers={200: BatchView},
        errors=(NotFound, LedgerUnavailable),
        text="Safe to repeat. While is_canceling is true, jobs of a large batch are still being told.",
    )
    def cancel(batch_id: str) -> Response:
        return shown(service.cancel(batch_id))

    @blueprint.post("/<batch_id>/pause")
    @Described(
        summary="Let no further job of a batch begin",
        tag=BATCHES,
        scope="cancel",
        answers={200: BatchView},
        errors=(NotFound, LedgerUnavailable),
        text="Safe to repeat. Jobs that run go on.",
    )
    def pause(batch_id: str) -> Response:
        return shown(service.pause(batch_id, is_paused=True))

    @blueprint.post("/<batch_id>/resume")
    @Described(
        summary="Let the jobs of a paused batch begin again",
        tag=BATCHES,
        scope="cancel",
        answers={200: BatchView},
        errors=(NotFound, LedgerUnavailable),
        text="Safe to repeat.",
    )
    def resume(batch_id: str) -> Response:
        return shown(service.pause(batch_id, is_paused=False))

    @blueprint.post("/<batch_id>/retry")
    @Described(
        summary="Make the failed jobs of a batch again",
        tag=BATCHES,
        body=RetryBody,
        is_optional=True,
        scope="submit",
        answers={200: BatchView},
        errors=(NotFound, NotAllowed, QueueFull, LimitReached, LedgerUnavailable),
        text="Each is replaced in the batch by a new job with the same values, which says in batch.replaces which one. "
        "Safe to repeat: jobs that did not fail stay as they are.",
    )
    def retry(batch_id: str) -> Response:
        body = read(RetryBody, read_json(settings) if has_body() else {})
        return shown(service.retry(batch_id, body.statuses))

    return blueprint


def _states(value: str | None) -> list[BatchState]:
    wanted = [] if value is None else value.split(",")
    for name in wanted:
        if name not in STATES:
            raise BadParameter(f"Unknown status {name[:40]!a}; known are {', '.join(STATES)}.")
    return [state for state in STATES if state in wanted]


def _varied_filters() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.args.items(multi=True):
        if not name.startswith("varied"):
            continue
        match = _VARIED.fullmatch(name)
        if match is None:
            raise BadParameter(f"{name[:60]!a} must be varied[name]=value, with the name of what was varied.")
        if match[1] in found:
            raise BadParameter(f"The filter for {match[1][:60]!a} is given twice.")
        if "\0" in match[1] or "\0" in value:
            raise BadParameter(f"varied[{match[1][:60]!a}] must not contain NUL characters.")
        found[match[1]] = value
    if len(found) > MAX_VARIED:
        raise BadParameter(f"At most {MAX_VARIED} filters by varied values are accepted.")
    return found


def _refuse_unknown(ledger: Ledger, batch_id: str, over: Collection[str], names: Iterable[str]) -> None:
    """Raise BadParameter where none of a batch's jobs was made with something of this name."""
    asked = [name for name in names if name not in over]
    if not asked:
        return
    # Jobs that were listed, or added, have names of their own.
    known = [*sorted(over), *ledger.batch_children.varied_names(batch_id, of=caller().sees)]
    for name in asked:
        if name not in known:
            there = list(dict.fromkeys(each[:60] for each in known))
            more = f", and {len(there) - MAX_NAMED} more" if len(there) > MAX_NAMED else ""
            hint = f"there are: {', '.join(there[:MAX_NAMED])}{more}" if there else "nothing was"
            raise BadParameter(f"varied[{name[:60]!a}]: nothing of this name was varied in the batch; {hint}.")
