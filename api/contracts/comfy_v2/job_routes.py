"""Comfy API v2 over HTTP: jobs. This blueprint only translates."""

from __future__ import annotations

import re

from flask import Blueprint, Response, request

from api.contracts.comfy_v2.dry_run_views import DryRunView, dry_run_view
from api.contracts.comfy_v2.events import EventStream, event_stream_response
from api.contracts.comfy_v2.views import (
    EventsLinkView,
    JobLogView,
    JobPageView,
    JobView,
    PrintedView,
    SubmittedWorkflowView,
    event_view,
    job_view,
    list_item,
    printed_view,
)
from api.http.caller import base_url, caller, links_for
from api.http.errors import (
    InvalidCursor,
    InvalidMetadata,
    InvalidMetadataFilter,
    JobNotEnded,
    LinkRefused,
    json_response,
)
from api.http.json_body import read_json
from api.http.time_limits import bounded, ledger_time_limit
from api.schema import fields
from api.schema.bodies import SubmitBody
from api.schema.described import CURSOR, DRY_RUN, IDEMPOTENCY_KEY, JOBS, SUBMIT_ERRORS, Described, Parameter, limit_of
from api.schema.validation import lacks_graph, read
from api.service.dry_runs.asked import is_dry_run
from api.service.dry_runs.job_trial import DryRuns
from api.service.estimates import Estimates
from api.service.job_requests import with_job_fields
from api.service.jobs import JobService, check_id, seen
from api.service.waiting import Hub
from core.contracts.comfy_v2 import JobErrorView, timestamp, whole_error_view
from core.errors import IdempotencyKeyReuse, InvalidWorkflow, LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.ledger.jobs import MAX_SEARCHED
from core.records.job import Job
from core.records.job_request import JobRequest
from core.settings import Settings
from workflows.graphs.misplaced import misplaced_graph

LAST_EVENT_ID = Parameter(
    name="Last-Event-ID",
    place="header",
    description="The id of the last event that was seen; what came after it is sent again.",
    schema={"type": "integer", "minimum": 0},
)
#: Lines of a job's log in one answer.
MAX_EVENTS = 1_000
AFTER = Parameter(
    name="after",
    place="query",
    description="Of the log as JSON: only what came after the event of this number.",
    schema={"type": "integer", "minimum": 0, "default": 0},
)
AFTER_PIECE = Parameter(
    name="after",
    place="query",
    description="Only what came after the piece of this number.",
    schema={"type": "integer", "minimum": 0, "default": 0},
)
LIST_PARAMETERS = (
    limit_of("jobs"),
    CURSOR,
    Parameter(name="status", place="query", description="One or more, separated by commas.", schema={"type": "string"}),
    Parameter(
        name="metadata",
        place="query",
        description=f"metadata[key]=value: labels that must all match, at most {fields.MAX_FILTERS}.",
        schema={"type": "object", "additionalProperties": {"type": "string"}},
        style="deepObject",
    ),
    Parameter(
        name="label",
        place="query",
        description="Only jobs with this label. An extension.",
        schema={"type": "string", "minLength": 1, "maxLength": fields.MAX_LABEL_CHARS},
    ),
    Parameter(
        name="template",
        place="query",
        description="Only jobs made from this workflow template. An extension.",
        schema={"type": "string"},
    ),
    Parameter(
        name="error",
        place="query",
        description="Only jobs with these words in the code or the message of their error, in capitals or not, of the "
        f"newest {MAX_SEARCHED:,} that failed or expired and are as the other filters say. An extension.",
        schema={"type": "string", "minLength": 1, "maxLength": 255},
    ),
    Parameter(
        name="id_prefix",
        place="query",
        description="Only jobs whose id begins so. An extension.",
        schema={"type": "string", "minLength": 1, "maxLength": 36},
    ),
    Parameter(
        name="created_after",
        place="query",
        description="Only jobs submitted at this time or later. An extension.",
        schema={"type": "string", "format": "date-time"},
    ),
    Parameter(
        name="created_before",
        place="query",
        description="Only jobs submitted before this time. An extension.",
        schema={"type": "string", "format": "date-time"},
    ),
)


def v2_blueprint(
    settings: Settings, ledger: Ledger, service: JobService, hub: Hub, estimates: Estimates, dry_runs: DryRuns
) -> Blueprint:
    """Return the routes of jobs under /api/v2."""
    blueprint = Blueprint("v2", __name__, url_prefix="/api/v2")

    @blueprint.post("/jobs")
    @Described(
        summary="Submit a job",
        tag=JOBS,
        body=SubmitBody,
        scope="submit",
        answers={201: JobView, 200: DryRunView},
        errors=(*SUBMIT_ERRORS, IdempotencyKeyReuse, InvalidMetadata),
        parameters=(IDEMPOTENCY_KEY, DRY_RUN),
        text="A 201 means that the job is recorded and can run; 200 is the answer to a dry run.",
    )
    def submit() -> Response:
        is_dry = is_dry_run()
        wanted = _requested(settings)
        if is_dry:
            return json_response(dry_run_view(dry_runs.of(wanted)))
        job = service.submit(wanted)
        return json_response(job_view(job, links_for(settings, ledger)), 201)

    @blueprint.get("/jobs")
    @Described(
        summary="List jobs, the newest first",
        tag=JOBS,
        scope="read",
        answers={200: JobPageView},
        errors=(InvalidCursor, InvalidMetadataFilter, LedgerUnavailable),
        parameters=LIST_PARAMETERS,
    )
    @bounded
    def list_jobs() -> Response:
        return _page(settings, ledger, estimates)

    @blueprint.get("/jobs/<job_id>")
    @Described(
        summary="A job as it stands",
        tag=JOBS,
        scope="read",
        answers={200: JobView},
        errors=(NotFound, LedgerUnavailable),
    )
    @bounded
    def get(job_id: str) -> Response:
        job = ledger.jobs.get(check_id(job_id), of=caller().sees)
        return json_response(job_view(job, links_for(settings, ledger), place=estimates.place(job)))

    @blueprint.post("/jobs/<job_id>/cancel")
    @Described(
        summary="Ask for a job's end",
        tag=JOBS,
        scope="cancel",
        answers={200: JobView},
        errors=(NotFound, LedgerUnavailable),
        text="Safe to repeat, in every status. A job that has ended stays as it is.",
    )
    def cancel(job_id: str) -> Response:
        return json_response(job_view(service.cancel(job_id), links_for(settings, ledger)))

    @blueprint.delete("/jobs/<job_id>")
    @Described(
        summary="Remove an ended job and its files",
        tag=JOBS,
        scope="cancel",
        answers={204: None},
        errors=(NotFound, JobNotEnded, LedgerUnavailable),
        text="At once and for good, with its events and webhooks that are still on their way. An extension.",
    )
    def delete(job_id: str) -> Response:
        service.delete(job_id)
        return Response(status=204)

    @blueprint.get("/jobs/<job_id>/workflow")
    @Described(
        summary="The graph as it was submitted",
        tag=JOBS,
        scope="read",
        answers={200: SubmittedWorkflowView},
        errors=(NotFound, LedgerUnavailable),
    )
    @bounded
    def workflow(job_id: str) -> Response:
        graph = ledger.jobs.graph(check_id(job_id), of=caller().sees)
        # The graph is JSON text already, with every digit its client sent.
        return Response(f'{{"workflow":{graph},"format":"api"}}', content_type="application/json")

    @blueprint.get("/jobs/<job_id>/error")
    @Described(
        summary="The error of a failed job at full length",
        tag=JOBS,
        scope="read",
        answers={200: JobErrorView},
        errors=(NotFound, LedgerUnavailable),
        text="Message and traceback of up to a million characters each; the job itself shows their ends. An extension.",
    )
    @bounded
    def error(job_id: str) -> Response:
        return json_response(whole_error_view(ledger.jobs.error(check_id(job_id), of=caller().sees)))

    @blueprint.get("/jobs/<job_id>/events")
    @Described(
        summary="Server-sent events until the job's end",
        tag=JOBS,
        scope="read",
        answers={200: ("text/event-stream", JobLogView)},
        errors=(NotFound, LinkRefused, LedgerUnavailable),
        parameters=(LAST_EVENT_ID, AFTER),
        text="Events status, progress, preview, output and log. The data of each is JSON. With Accept: "
        "application/json the log of what has happened so far, at once; an extension.",
    )
    def events(job_id: str) -> Response:
        job = seen(hub.look(check_id(job_id)))
        if _wants_json():
            with ledger_time_limit():
                return _log(ledger, job)
        stream = EventStream(
            ledger, hub, job, estimates=estimates, links=links_for(settings, ledger), after_seq=_last_event_id()
        )
        return event_stream_response(stream.frames())

    @blueprint.post("/jobs/<job_id>/events-link")
    @Described(
        summary="A link to a job's events that needs no key",
        tag=JOBS,
        scope="read",
        answers={201: EventsLinkView},
        errors=(NotFound, LedgerUnavailable),
        text="For EventSource in browsers, which sends no headers: so no key stands in a URL. The link ends after ten "
        "minutes; a stream that began goes on.",
    )
    def events_link(job_id: str) -> Response:
        job = seen(hub.look(check_id(job_id)))
        link = links_for(settings, ledger).events(job.id)
        view: EventsLinkView = {"url": link.url, "expires_at": timestamp(link.expires_at_ms)}
        return json_response(view, 201, {"Cache-Control": "no-store"})

    @blueprint.get("/jobs/<job_id>/logs")
    @Described(
        summary="What ComfyUI printed while the job ran",
        tag=JOBS,
        scope="read",
        answers={200: PrintedView, 204: None},
        errors=(NotFound, LedgerUnavailable),
        parameters=(AFTER_PIECE,),
        text="Its end, if it printed much. 204: nothing, so far. Written once a second, so that the last lines may "
        "come a second after the job's end.",
    )
    @bounded
    def logs(job_id: str) -> Response:
        after = fields.whole_number("after", request.args.get("after"), 0, least=0, most=2**31 - 1)
        printed = ledger.job_logs.read(check_id(job_id), after=after, of=caller().sees)
        return Response(status=204) if printed is None else json_response(printed_view(printed))

    return blueprint


def _requested(settings: Settings) -> JobRequest:
    key = fields.idempotency_key(request.headers.get("Idempotency-Key"))
    value = read_json(settings)
    body = read(SubmitBody, value)
    if lacks_graph(SubmitBody, value) and (hint := misplaced_graph(value, "workflow")):
        raise InvalidWorkflow(hint)
    wanted = JobRequest(contract="v2", graph=body.workflow, idempotency_key=key)
    return with_job_fields(wanted, body, settings, base_url(settings))


def _page(settings: Settings, ledger: Ledger, estimates: Estimates) -> Response:
    limit = fields.limit(request.args.get("limit"))
    page: list[Job] = ledger.jobs.page(
        of=caller().sees,
        statuses=fields.statuses(request.args.get("status")),
        labels=fields.label_filters(request.args.items(multi=True)),
        label=fields.label_filter(request.args.get("label")),
        template=fields.template_name(request.args.get("template")),
        error=fields.error_words(request.args.get("error")),
        ids=fields.id_bounds(request.args.get("id_prefix")),
        from_ms=fields.moment("created_after", request.args.get("created_after")),
        until_ms=fields.moment("created_before", request.args.get("created_before")),
        after=fields.decode_cursor(request.args.get("cursor")),
        # One more than is shown tells whether there is a next page.
        limit=limit + 1,
    )
    shown, rest = page[:limit], page[limit:]
    cursor = fields.encode_cursor(shown[-1].created_at_ms, shown[-1].id) if rest else None
    links = links_for(settings, ledger)
    places = estimates.places(shown)
    view: JobPageView = {
        "jobs": [list_item(job, links, place=places.get(job.id)) for job in shown],
        "next_cursor": cursor,
        "truncated": False,
    }
    return json_response(view)


def _wants_json() -> bool:
    """Whether the client prefers JSON to a stream; one that takes anything gets the stream, as ever."""
    accepted = request.accept_mimetypes
    return accepted["application/json"] > accepted["text/event-stream"]


def _log(ledger: Ledger, job: Job) -> Response:
    after = fields.event_number(request.args.get("after"))
    # One more than is shown tells whether there are further ones.
    found = ledger.jobs.events(job.id, after_seq=after, limit=MAX_EVENTS + 1)
    shown, rest = found[:MAX_EVENTS], found[MAX_EVENTS:]
    view: JobLogView = {
        "events": [event_view(event) for event in shown],
        "next_after": shown[-1].seq if rest else None,
    }
    return json_response(view)


def _last_event_id() -> int | None:
    value = request.headers.get("Last-Event-ID", "")
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value, re.ASCII) else None
