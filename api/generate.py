"""The `/generate` family over HTTP. This blueprint only translates."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from api.assets import read_base64
from api.body import read_json
from api.client import base_url, hang_up_check
from api.errors import GENERATE_STATUS, error_body, error_headers, json_response, status_of
from api.generate_fields import GenerateRequest, parse_generate
from api.patience import bounded, ledger_patience
from api.submit import Service, check_id
from api.waiting import Hub
from core.errors import FleetError, NotFound, OutputUnavailable, PromptStuck
from core.job import CANCELED, CANCELING, DELIVERING, EXPIRED, FAILED, QUEUED, RUNNING, SUCCEEDED, Job
from core.ledger import Ledger
from core.ledger.returns import POISON
from core.results import STATUS_WORDS, generate_result
from core.settings import Settings
from workflows.library import Library

#: All files of one answer together, before base64.
MAX_INLINE_BYTES = 32 * 1024 * 1024
#: Codes of jobs that failed with their instances, not by themselves.
LOST = (POISON, PromptStuck.code)
#: What `/generate/sync` answers for each end.
ENDS = {SUCCEEDED: 200, CANCELED: 499, FAILED: 500, EXPIRED: 504}
LOST_INSTANCE = 502
INLINE_HEADER = "X-Return-Outputs-As-Base64"


def generate_blueprint(settings: Settings, ledger: Ledger, service: Service, hub: Hub, library: Library) -> Blueprint:
    """Routes of the `/generate` contract."""
    blueprint = Blueprint("generate", __name__)
    blueprint.register_error_handler(FleetError, generate_error)

    def parsed() -> GenerateRequest:
        return parse_generate(read_json(settings), settings, base_url(settings), library)

    @blueprint.post("/generate")
    def generate() -> Response:
        job = service.submit(parsed().order)
        return json_response(generate_result(job, base_url=base_url(settings)), 202)

    @blueprint.post("/generate/sync")
    def generate_sync() -> Response:
        # The body and its graph are out of reach before the waiting begins: a thousand clients may wait here.
        job, is_inline = _submitted(service, parsed())
        is_gone = hang_up_check()
        is_wanted = bool(job.webhook)
        ended = hub.until_done(lambda: ledger.jobs.get(job.id), job, is_abandoned=lambda: not is_wanted and is_gone())
        if ended is None:
            ended = service.cancel(job.id)
        return json_response(_result(ended, settings, is_inline=is_inline), _status(ended))

    @blueprint.get("/result/<request_id>")
    @bounded
    def result(request_id: str) -> Response:
        try:
            job = ledger.jobs.get_by_request_id(check_id(request_id))
        except NotFound:
            return _unknown()
        return json_response(_result(job, settings, is_inline=_wants_inline()))

    @blueprint.post("/cancel/<request_id>")
    def cancel(request_id: str) -> Response:
        try:
            with ledger_patience():
                job_id = ledger.jobs.get_by_request_id(check_id(request_id)).id
            job = service.cancel(job_id)
        except NotFound:
            return _unknown()
        return json_response({"message": _cancel_message(job), "status": _cancel_word(job)})

    @blueprint.get("/queue-info")
    @bounded
    def queue_info() -> Response:
        sizes = {"preprocess": QUEUED, "generation": RUNNING, "postprocess": DELIVERING}
        return json_response({f"{name}_queue_size": ledger.jobs.count(status) for name, status in sizes.items()})

    return blueprint


def _submitted(service: Service, parsed: GenerateRequest) -> tuple[Job, bool]:
    return service.submit(parsed.order), parsed.is_inline or _wants_inline()


def _wants_inline() -> bool:
    return request.headers.get(INLINE_HEADER, "").strip().lower() in ("1", "true")


def _status(job: Job) -> int:
    if job.status == FAILED and (job.error or {}).get("code") in LOST:
        return LOST_INSTANCE
    return ENDS.get(job.status, 200)


def _result(job: Job, settings: Settings, *, is_inline: bool) -> dict[str, Any]:
    body = generate_result(job, base_url=base_url(settings))
    if is_inline:
        room_bytes = MAX_INLINE_BYTES
        for output, entry in zip(job.outputs, body["output"], strict=True):
            if output.size_bytes > room_bytes:
                entry["error"] = "Too large to return inline; fetch it from url."
                continue
            try:
                entry["data"] = read_base64(output, settings.outputs_dir)
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


def generate_error(error: FleetError) -> Response:
    """Both shapes at once: our envelope, and the `detail` that older servers of this contract answer."""
    body = error_body(error, table=GENERATE_STATUS)
    body["detail"] = body["error"]["message"]
    return json_response(body, status_of(error, GENERATE_STATUS), error_headers(error))
