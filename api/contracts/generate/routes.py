"""The `/generate` family over HTTP. This blueprint only translates."""

from __future__ import annotations

from flask import Blueprint, Response, request

from api.contracts.generate.request import GenerateRequest, parse_generate
from api.contracts.generate.results import (
    END_STATUSES,
    MessageView,
    QueueInfoView,
    StatusView,
    Wanted,
    full_result,
    queue_position,
    queue_sizes,
    rounded_s,
    status_of_end,
)
from api.http.caller import base_url, caller, hang_up_check, links_for
from api.http.error_shapes import GENERATE_FAMILY, ContractBlueprint
from api.http.errors import json_response
from api.http.json_body import read_json
from api.http.time_limits import bounded, ledger_time_limit
from api.schema.bodies import GenerateBody
from api.schema.described import GENERATE, SUBMIT_ERRORS, Described, Parameter
from api.service.estimates import Estimates
from api.service.jobs import JobService, check_id
from api.service.waiting import Hub
from core.contracts.generate import STATUS_WORDS, ResultView, generate_result
from core.errors import LedgerUnavailable, NotFound, RequestIdReuse
from core.ledger import Ledger
from core.records.job import CANCELED, CANCELING, QUEUED, Job
from core.settings import Settings
from workflows.templates.library import Library

#: Of the routes that submit.
SAME_REQUEST = "The same request_id with the same body is the same request: it is answered with the job there is."
INLINE_HEADER = "X-Return-Outputs-As-Base64"
RESPONSE_HEADER = "X-Include-ComfyUI-Response"
HEADERS = (
    Parameter(
        name=INLINE_HEADER,
        place="header",
        description="1 puts the files into the answer, up to 32 MiB together.",
        schema={"type": "string", "enum": ["0", "1"]},
    ),
    Parameter(
        name=RESPONSE_HEADER,
        place="header",
        description="1 fills comfyui_response with the outputs in the words of ComfyUI's history.",
        schema={"type": "string", "enum": ["0", "1"]},
    ),
)


def generate_blueprint(
    settings: Settings, ledger: Ledger, service: JobService, hub: Hub, library: Library, estimates: Estimates
) -> Blueprint:
    """Return the routes of the `/generate` contract."""
    blueprint = ContractBlueprint("generate", __name__, errors=GENERATE_FAMILY)

    def parsed() -> GenerateRequest:
        return parse_generate(read_json(settings), settings, base_url(settings), library, service.check.documents)

    @blueprint.post("/generate")
    @Described(
        summary="Submit a request",
        text=SAME_REQUEST,
        tag=GENERATE,
        body=GenerateBody,
        is_enveloped=True,
        scope="submit",
        answers={202: ResultView},
        errors=(*SUBMIT_ERRORS, RequestIdReuse),
    )
    def generate() -> Response:
        job = service.submit(parsed().job)
        return json_response(generate_result(job, links=links_for(settings, ledger)), 202)

    @blueprint.post("/generate/sync")
    @Described(
        summary="Submit a request and wait for its end",
        tag=GENERATE,
        body=GenerateBody,
        is_enveloped=True,
        scope="submit",
        answers=dict.fromkeys(END_STATUSES, StatusView),
        errors=(*SUBMIT_ERRORS, RequestIdReuse),
        parameters=HEADERS,
        text="A client that hangs up cancels its job, unless the job has a webhook or a bucket, or the operator set "
        f"COMFYLINE_CANCEL_ON_HANGUP to false. A proxy that waits no longer is such a client. {SAME_REQUEST}",
    )
    def generate_sync() -> Response:
        # The body and its graph are out of reach before the waiting begins: a thousand clients may wait here.
        job, wanted = submitted(service, parsed())
        ended = wait_for_end(job, service, hub, settings)
        body = full_result(ended, settings, links_for(settings, ledger), wanted)
        return json_response(body, status_of_end(ended))

    @blueprint.get("/result/<request_id>")
    @Described(
        summary="A request as it stands, by your id or ours",
        tag=GENERATE,
        scope="read",
        answers={200: StatusView, 404: MessageView},
        errors=(LedgerUnavailable,),
        parameters=HEADERS,
    )
    @bounded
    def result(request_id: str) -> Response:
        try:
            job = known_job(ledger, request_id)
        except NotFound:
            return _unknown()
        body = full_result(job, settings, links_for(settings, ledger), _wanted())
        if job.status == QUEUED:
            body["queue_position"] = queue_position(
                job, estimates.place(job), estimates.sizes(job, of=caller().sees).get(QUEUED, 0)
            )
        return json_response(body)

    @blueprint.post("/cancel/<request_id>")
    @Described(
        summary="Ask for a request's end",
        tag=GENERATE,
        scope="cancel",
        answers={200: MessageView, 404: MessageView},
        errors=(LedgerUnavailable,),
    )
    def cancel(request_id: str) -> Response:
        try:
            with ledger_time_limit():
                job_id = known_job(ledger, request_id).id
            job = service.cancel(job_id)
        except NotFound:
            return _unknown()
        view: MessageView = {"message": _cancel_message(job), "status": _cancel_word(job)}
        return json_response(view)

    @blueprint.get("/queue-info")
    @Described(
        summary="How much waits and runs",
        tag=GENERATE,
        scope="read",
        answers={200: QueueInfoView},
        errors=(LedgerUnavailable,),
    )
    @bounded
    def queue_info() -> Response:
        outlook = estimates.outlook()
        view: QueueInfoView = {
            **queue_sizes(ledger.outlook.sizes(of=caller().sees)),
            "estimated_wait_time": rounded_s(outlook.wait_of_new_s),
            "gpus": len(outlook.gpus),
        }
        return json_response(view)

    return blueprint


def known_job(ledger: Ledger, request_id: str) -> Job:
    """Return the job that its caller knows by this id, its own or ours. Raises NotFound."""
    who = caller()
    return ledger.jobs.get_by_request_id(check_id(request_id), by=who.tenant, of=who.sees)


def wait_for_end(job: Job, service: JobService, hub: Hub, settings: Settings) -> Job:
    """Return the job when it has ended; cancels it when its last caller hangs up, unless it outlives its client."""
    is_gone = hang_up_check()
    is_wanted = outlives_its_client(job, settings)
    ended = hub.until_done(lambda: hub.look(job.id), job, is_abandoned=lambda: not is_wanted and is_gone())
    return ended or service.hang_up(job.id)


def submitted(service: JobService, parsed: GenerateRequest) -> tuple[Job, Wanted]:
    """Return the job, and what its result is to hold."""
    return service.submit(parsed.job), _wanted(is_inline=parsed.is_inline)


def _wanted(*, is_inline: bool = False) -> Wanted:
    return Wanted(is_inline=is_inline or _asks_for(INLINE_HEADER), has_response=_asks_for(RESPONSE_HEADER))


def _asks_for(header: str) -> bool:
    return request.headers.get(header, "").strip().lower() in ("1", "true")


def outlives_its_client(job: Job, settings: Settings) -> bool:
    """Tell whether a job goes on when its client hangs up: its result also goes elsewhere, or the operator says so."""
    goes_elsewhere = job.webhook is not None or job.output_options.bucket is not None
    return goes_elsewhere or not settings.cancel_on_hangup


def _cancel_word(job: Job) -> str:
    """The contract has no word for an interrupt under way: to its clients the job is cancelled from now on."""
    return STATUS_WORDS[CANCELED] if job.status == CANCELING else STATUS_WORDS[job.status]


def _cancel_message(job: Job) -> str:
    if job.status in (CANCELED, CANCELING):
        return "Request cancelled"
    return f"Request had already ended: {STATUS_WORDS[job.status]}"


def _unknown() -> Response:
    view: MessageView = {"status": "failed", "message": "Request ID not found"}
    return json_response(view, 404)
