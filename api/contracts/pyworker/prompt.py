"""The PyWorker contract's `/prompt` over HTTP: values into the default workflow, its pictures in the answer."""

from __future__ import annotations

from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import Field, RootModel

from api.contracts.generate.results import END_STATUSES, MAX_INLINE_BYTES, status_of_end
from api.contracts.generate.routes import wait_for_end
from api.http.caller import base_url, links_for
from api.http.error_shapes import GENERATE_FAMILY, ContractBlueprint
from api.http.errors import json_response
from api.http.files import read_base64
from api.http.json_body import read_json
from api.schema.bodies import OutputOptionsBody, PlacementBody, PromptBody
from api.schema.described import BODY_ERRORS, PYWORKER, SUBMIT_ERRORS, Described
from api.schema.validation import read_enveloped
from api.service.job_requests import filled_request, with_output_fields, with_placement
from api.service.jobs import JobService
from api.service.waiting import Hub
from core.contracts.generate import ResultView, generate_result
from core.contracts.registry import CONTRACT_GENERATE
from core.errors import InvalidRequest, OutputUnavailable
from core.ledger import Ledger
from core.links import Links
from core.records.job import SUCCEEDED, Job
from core.records.job_request import JobRequest
from core.settings import Settings
from core.storage.backend import output_storage
from workflows.templates.library import Library
from workflows.templates.modifiers import draw_between
from workflows.templates.template import Template


class PicturesView(ResultView):
    """What `/prompt` made."""

    images: Annotated[list[str], Field(description="Each picture as a data URI.")]


class FailedPicturesView(PicturesView):
    """What `/prompt` answers where it made no picture."""

    error: Annotated[str, Field(description="Why there are none.")]


class MissingParametersView(RootModel[dict[str, str]]):
    """`{"<name>": "missing parameter"}` for each value that is not there."""


class NoPicturesView(RootModel[FailedPicturesView | MissingParametersView]):
    """A value is missing, or the workflow ran and made no picture."""


def prompt_blueprint(settings: Settings, ledger: Ledger, service: JobService, hub: Hub, library: Library) -> Blueprint:
    """Return the blueprint of `POST /prompt`."""
    blueprint = ContractBlueprint("prompt", __name__, errors=GENERATE_FAMILY)

    @blueprint.post("/prompt")
    @Described(
        summary="Fill the default workflow, wait, and get its pictures",
        tag=PYWORKER,
        body=PromptBody,
        is_enveloped=True,
        scope="submit",
        answers={**dict.fromkeys(END_STATUSES, FailedPicturesView), 200: PicturesView, 422: NoPicturesView},
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
    # A workflow's own parameter keeps its name.
    own = {name for name in PlacementBody.model_fields if name in template.parameters}
    body = read_enveloped(PromptBody, {name: value for name, value in values.items() if name not in own})
    # A workflow need not have a place for each of the contract's five values; any other must have one.
    wanted = {
        name: value
        for name, value in values.items()
        if name.lower() in template.parameters or name not in PromptBody.model_fields
    }
    filled = template.fill(wanted, draw=draw_between)
    job = filled_request(filled, contract=CONTRACT_GENERATE, template=template.name)
    job = with_placement(job, body, settings)
    return with_output_fields(job, OutputOptionsBody(), None, settings, base_url(settings), has_defaults=True)


def _answer(job: Job, settings: Settings, links: Links) -> Response:
    result, status = generate_result(job, links=links), status_of_end(job)
    if job.status != SUCCEEDED:
        return _no_pictures(result, result["message"], status)
    images = _images(job, settings)
    if not images:
        return _no_pictures(result, "workflow did not produce any images", 422)
    view: PicturesView = {**result, "images": images}
    return json_response(view, status)


def _no_pictures(result: ResultView, reason: str, status: int) -> Response:
    view: FailedPicturesView = {**result, "images": [], "error": reason}
    return json_response(view, status)


def _images(job: Job, settings: Settings) -> list[str]:
    """Return the pictures of a job as data URIs, as many as one answer has room for."""
    found: list[str] = []
    room_bytes = MAX_INLINE_BYTES
    for output in job.outputs:
        if output.kind == "image" and output.size_bytes <= room_bytes:
            room_bytes -= output.size_bytes
            found.append(f"data:{output.content_type};base64,{read_base64(output, output_storage(settings))}")
    return found
