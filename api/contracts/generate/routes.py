"""The `/generate` family over HTTP. This blueprint only translates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, request

from api.contracts.generate.request import GenerateRequest, parse_generate
from api.http.caller import base_url, hang_up_check, links_for
from api.http.errors import GENERATE_STATUS, error_body, error_headers, json_response, status_of
from api.http.files import read_base64
from api.http.json_body import read_json
from api.http.time_limits import bounded, ledger_time_limit
from api.schema import answers
from api.schema.bodies import GenerateBody
from api.schema.openapi import GENERATE, SUBMIT_ERRORS, Described, Parameter
from api.service.estimates import Estimates, Place
from api.service.jobs import JobService, check_id
from api.service.waiting import Hub
from core.contracts.comfy_v2 import attempt_view
from core.contracts.generate import STATUS_WORDS, comfyui_response, generate_result
from core.errors import (
    ComfylineError,
    LedgerUnavailable,
    NotFound,
    OutputUnavailable,
    PromptInterrupted,
    PromptStuck,
    RequestIdReuse,
)
from core.job import CANCELED, CANCELING, DELIVERING, EXPIRED, FAILED, QUEUED, RUNNING, SUCCEEDED, Job
from core.ledger import Ledger
from core.ledger.requeue import POISON
from core.links import Links
from core.settings import Settings
from core.storage.backend import outputs_of
from workflows.templates.library import Library

#: All files of one answer together, before base64.
MAX_INLINE_BYTES = 32 * 1024 * 1024
#: Codes of jobs that failed with their instances, not by themselves.
LOST = (POISON, PromptStuck.code, PromptInterrupted.code)
#: What `/generate/sync` answers for each end.
ENDS = {SUCCEEDED: 200, CANCELED: 499, FAILED: 500, EXPIRED: 504}
LOST_INSTANCE = 502
#: Which of the contract's queues a job in each status counts to.
QUEUES = {"preprocess": QUEUED, "generation": RUNNING, "postprocess": DELIVERING}
#: The contract's words for where a job is.
QUEUE_WORDS = {
    QUEUED: "preprocessing",
    RUNNING: "generation",
    CANCELING: "processing",
    DELIVERING: "postprocessing",
}
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


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a result is to hold beside the usual."""

    is_inline: bool
    has_response: bool


def generate_blueprint(
    settings: Settings, ledger: Ledger, service: JobService, hub: Hub, library: Library, estimates: Estimates
) -> Blueprint:
    """Routes of the `/generate` contract."""
    blueprint = Blueprint("generate", __name__)
    blueprint.register_error_handler(ComfylineError, generate_error)

    def parsed() -> GenerateRequest:
        return parse_generate(read_json(settings), settings, base_url(settings), library)

    @blueprint.post("/generate")
    @Described(
        summary="Submit a request",
        text=SAME_REQUEST,
        tag=GENERATE,
        body=GenerateBody,
        is_enveloped=True,
        answers={202: answers.Result},
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
        answers=dict.fromkeys(sorted({*ENDS.values(), LOST_INSTANCE}), answers.Status),
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
        answers={200: answers.Status, 404: answers.Message},
        errors=(LedgerUnavailable,),
        parameters=HEADERS,
    )
    @bounded
    def result(request_id: str) -> Response:
        try:
            job = ledger.jobs.get_by_request_id(check_id(request_id))
        except NotFound:
            return _unknown()
        body = full_result(job, settings, links_for(settings, ledger), _wanted())
        if job.status == QUEUED:
            body["queue_position"] = queue_position(job, estimates.place(job), estimates.sizes(job).get(QUEUED, 0))
        return json_response(body)

    @blueprint.post("/cancel/<request_id>")
    @Described(
        summary="Ask for a request's end",
        tag=GENERATE,
        answers={200: answers.Message, 404: answers.Message},
        errors=(LedgerUnavailable,),
    )
    def cancel(request_id: str) -> Response:
        try:
            with ledger_time_limit():
                job_id = ledger.jobs.get_by_request_id(check_id(request_id)).id
            job = service.cancel(job_id)
        except NotFound:
            return _unknown()
        return json_response({"message": _cancel_message(job), "status": _cancel_word(job)})

    @blueprint.get("/queue-info")
    @Described(
        summary="How much waits and runs", tag=GENERATE, answers={200: answers.QueueInfo}, errors=(LedgerUnavailable,)
    )
    @bounded
    def queue_info() -> Response:
        workload = estimates.workload()
        wait_s = rounded_s(workload.wait_of_new_s())
        fleet = {"estimated_wait_time": wait_s, "gpus": workload.gpus.total()}
        return json_response(queue_sizes(ledger.workload.sizes()) | fleet)

    return blueprint


def wait_for_end(job: Job, service: JobService, hub: Hub, settings: Settings) -> Job:
    """The job when it has ended; it is cancelled when its last caller hangs up and nobody else wants it."""
    is_gone = hang_up_check()
    is_wanted = outlives_its_client(job, settings)
    ended = hub.until_done(lambda: hub.look(job.id), job, is_abandoned=lambda: not is_wanted and is_gone())
    return ended or service.hang_up(job.id)


def submitted(service: JobService, parsed: GenerateRequest) -> tuple[Job, Wanted]:
    """The job, and what its result is to hold."""
    return service.submit(parsed.job), _wanted(is_inline=parsed.is_inline)


def _wanted(*, is_inline: bool = False) -> Wanted:
    return Wanted(is_inline=is_inline or _asks_for(INLINE_HEADER), has_response=_asks_for(RESPONSE_HEADER))


def _asks_for(header: str) -> bool:
    return request.headers.get(header, "").strip().lower() in ("1", "true")


def outlives_its_client(job: Job, settings: Settings) -> bool:
    """Whether the job goes on when its client hangs up: its result goes somewhere else too, or the operator says so."""
    goes_elsewhere = job.webhook is not None or job.output_options.bucket is not None
    return goes_elsewhere or not settings.cancel_on_hangup


def queue_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """The contract's names for how many jobs have each status."""
    return {f"{name}_queue_size": sizes.get(status, 0) for name, status in QUEUES.items()}


def queue_position(job: Job, place: Place | None, queue_size: int) -> dict[str, Any]:
    """Where a job stands; one that is being worked on waits for nothing.

    Parameters:
      place: of a job that waits; None when the ledger does not say.
      queue_size: how many jobs have its status.
    """
    is_queued = job.status == QUEUED
    return {
        "current_queue": QUEUE_WORDS[job.status],
        "position": place.position if place else None if is_queued else 0,
        "queue_size": queue_size,
        "estimated_wait_time": (place and rounded_s(place.wait_s)) if is_queued else 0.0,
    }


def rounded_s(seconds: float | None) -> float | None:
    """Seconds as they are shown."""
    return None if seconds is None else round(seconds, 3)


def status_of_end(job: Job) -> int:
    """The HTTP status of an answer that waited for a job's end."""
    if job.status == FAILED and job.error is not None and job.error.code in LOST:
        return LOST_INSTANCE
    return ENDS.get(job.status, 200)


def full_result(job: Job, settings: Settings, links: Links, wanted: Wanted) -> dict[str, Any]:
    """The result of a job, with the bytes of its outputs in it if they are wanted.

    Parameters:
      links: of the address the client reaches us by.
    """
    body = generate_result(job, links=links) | attempt_view(job)
    if wanted.has_response:
        body["comfyui_response"] = comfyui_response(job)
    if wanted.is_inline:
        room_bytes = MAX_INLINE_BYTES
        for output, entry in zip(job.outputs, body["output"], strict=True):
            if output.size_bytes > room_bytes:
                entry["error"] = "Too large to return inline; fetch it from url."
                continue
            try:
                entry["data"] = read_base64(output, outputs_of(settings))
                room_bytes -= output.size_bytes
            except OutputUnavailable as exc:
                entry["error"] = exc.message
    return body


def _cancel_word(job: Job) -> str:
    """The contract has no word for an interrupt under way: to its clients the job is cancelled from now on."""
    return STATUS_WORDS[CANCELED] if job.status == CANCELING else STATUS_WORDS[job.status]


def _cancel_message(job: Job) -> str:
    if job.status in (CANCELED, CANCELING):
        return "Request cancelled"
    return f"Request had already ended: {STATUS_WORDS[job.status]}"


def _unknown() -> Response:
    return json_response({"status": "failed", "message": "Request ID not found"}, 404)


def generate_error(error: ComfylineError) -> Response:
    """Both shapes at once: our envelope, and the `detail` that older servers of this contract answer."""
    body = error_body(error, table=GENERATE_STATUS)
    body["detail"] = body["error"]["message"]
    return json_response(body, status_of(error, GENERATE_STATUS), error_headers(error))
