"""The PyWorker contract's `/prompt` over HTTP: values into the default workflow, its pictures in the answer."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from api.contracts.generate.routes import (
    ENDS,
    LOST_INSTANCE,
    MAX_INLINE_BYTES,
    generate_error,
    status_of_end,
    wait_for_end,
)
from api.http.caller import base_url, links_for
from api.http.errors import json_response
from api.http.files import read_base64
from api.http.json_body import read_json
from api.schema import answers
from api.schema.bodies import OutputOptionsBody, PromptBody
from api.schema.openapi import BODY_ERRORS, PYWORKER, SUBMIT_ERRORS, Described
from api.schema.validation import read_enveloped
from api.service.job_requests import filled_request, with_output_fields
from api.service.jobs import JobService
from api.service.waiting import Hub
from core.contracts.generate import generate_result
from core.contracts.registry import CONTRACT_GENERATE
from core.errors import ComfylineError, InvalidRequest, OutputUnavailable
from core.job import SUCCEEDED, Job
from core.job_request import JobRequest
from core.ledger import Ledger
from core.links import Links
from core.settings import Settings
from core.storage.backend import outputs_of
from workflows.templates.library import Library
from workflows.templates.modifiers import draw_between
from workflows.templates.template import Template


def prompt_blueprint(settings: Settings, ledger: Ledger, service: JobService, hub: Hub, library: Library) -> Blueprint:
    """`POST /prompt`."""
    blueprint = Blueprint("prompt", __name__)
    blueprint.register_error_handler(ComfylineError, generate_error)

    @blueprint.post("/prompt")
    @Described(
        summary="Fill the default workflow, wait, and get its pictures",
        tag=PYWORKER,
        body=PromptBody,
        is_enveloped=True,
        answers={
            **dict.fromkeys(sorted({*ENDS.values(), LOST_INSTANCE}), answers.Pictures),
            422: answers.NoPictures,
        },
        errors=(*BODY_ERRORS, *SUBMIT_ERRORS, OutputUnavailable),
        text="The default workflow is the one COMFY_MODEL names. A client that hangs up cancels its job.",
    )
    def prompt() -> Response:
        template = _default(settings, library)
        values = _values(read_json(settings))
        if missing := _missing(template, values):
            return json_response(dict.fromkeys(missing, "missing parameter"), 422)
        job = service.submit(_requested(template, values, settings))
        return _answer(wait_for_end(job, service, hub, settings), settings, links_for(settings, ledger))

    return blueprint


def _default(settings: Settings, library: Library) -> Template:
    if settings.comfy_model not in library.names():
        raise InvalidRequest(f"There is no workflow {settings.comfy_model!r}; the operator sets COMFY_MODEL.")
    return library.get(settings.comfy_model)


def _values(body: Any) -> dict[str, Any]:
    """The values by name, as they came; the router's envelope is taken off."""
    if isinstance(body, dict) and isinstance(body.get("payload"), dict) and "prompt" not in body:
        body = body["payload"]
    if isinstance(body, dict) and isinstance(body.get("prompt"), dict):
        raise InvalidRequest(
            'prompt must be text here. A graph goes to /custom_workflow, or to /api/v2/jobs, as {"workflow": {...}}.'
        )
    if not isinstance(body, dict):
        raise InvalidRequest('The body must be an object: {"prompt", "width", "height", "steps", "seed"}.')
    return body


def _missing(template: Template, values: dict[str, Any]) -> list[str]:
    """The five values of the contract that are not there, and whatever else the template cannot do without."""
    given = {name.lower() for name in values}
    needed = [name for name, field in PromptBody.model_fields.items() if field.is_required()]
    needed += [name for name, parameter in template.parameters.items() if parameter.required and name not in needed]
    return [name for name in needed if name not in given]


def _requested(template: Template, values: dict[str, Any], settings: Settings) -> JobRequest:
    read_enveloped(PromptBody, values)
    # A workflow need not have a place for each of the contract's five values; any other must have one.
    wanted = {
        name: value
        for name, value in values.items()
        if name.lower() in template.parameters or name not in PromptBody.model_fields
    }
    filled = template.fill(wanted, draw=draw_between)
    job = filled_request(filled, contract=CONTRACT_GENERATE, template=template.name)
    return with_output_fields(job, OutputOptionsBody(), None, settings, base_url(settings), has_defaults=True)


def _answer(job: Job, settings: Settings, links: Links) -> Response:
    body = generate_result(job, links=links)
    body["images"] = []
    status = status_of_end(job)
    if job.status != SUCCEEDED:
        return json_response(body | {"error": body["message"]}, status)
    room_bytes = MAX_INLINE_BYTES
    for output in job.outputs:
        if output.kind == "image" and output.size_bytes <= room_bytes:
            room_bytes -= output.size_bytes
            content = read_base64(output, outputs_of(settings))
            body["images"].append(f"data:{output.content_type};base64,{content}")
    if not body["images"]:
        return json_response(body | {"error": "workflow did not produce any images"}, 422)
    return json_response(body, status)
