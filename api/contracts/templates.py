"""The workflow templates over HTTP: which there are, what each takes, and a job from one."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from flask import Blueprint, Response, request
from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from api.contracts.comfy_v2.dry_run_views import DryRunView, dry_run_view
from api.contracts.comfy_v2.views import JobView, RequirementsView, job_view, requirements_view
from api.http.caller import base_url, links_for
from api.http.errors import InvalidMetadata, json_response
from api.http.forms import upload_form
from api.http.json_body import read_json
from api.schema import fields
from api.schema.bodies import PlacementBody, TemplateBody
from api.schema.described import DRY_RUN, IDEMPOTENCY_KEY, SUBMIT_ERRORS, WORKFLOWS, Described
from api.schema.validation import read
from api.service.dry_runs.asked import is_dry_run
from api.service.dry_runs.job_trial import DryRuns
from api.service.input_files import Intake
from api.service.job_requests import filled_request, with_job_fields, with_placement
from api.service.jobs import JobService
from core.contracts.registry import CONTRACT_V2
from core.errors import IdempotencyKeyReuse, InvalidBody, InvalidRequest, NotFound
from core.ledger import Ledger
from core.records.job_request import JobRequest
from core.settings import Settings
from core.texts.json_types import JsonObject
from core.texts.strict_json import loads
from workflows.graphs.file_names import safe_name
from workflows.templates.library import Library
from workflows.templates.modifiers import draw_between
from workflows.templates.template import Template

#: The same job from a form: what a browser or curl sends without any code.
FORM = {
    "type": "object",
    "description": "Each field is a parameter, as text; each file a picture for one. Where a field that says when and "
    "where the job runs has the name of a parameter, it is that parameter.",
    "properties": {
        "priority": {"type": "string", "pattern": "^-?[0-9]+$", "description": "An integer."},
        "requires": {"type": "string", "description": 'JSON, such as {"pool": "h100", "vram_gb": 24}.'},
        "start_within_s": {"type": "string", "description": "Seconds."},
    },
    "additionalProperties": {"type": "string"},
}


class WorkflowSummaryView(TypedDict):
    name: str
    title: str
    description: str
    requires: NotRequired[Annotated[RequirementsView, Field(description="What its jobs require of a GPU.")]]


class WorkflowProblemView(TypedDict):
    file: str
    line: int
    reason: str


class WorkflowsView(TypedDict):
    """The templates, and what is wrong with files of the operator's directory."""

    workflows: list[WorkflowSummaryView]
    problems: list[WorkflowProblemView]


class WorkflowView(WorkflowSummaryView):
    parameters: Annotated[JsonObject, Field(description="JSON Schema of the values it takes.")]


def workflows_blueprint(
    settings: Settings, ledger: Ledger, service: JobService, library: Library, intake: Intake, dry_runs: DryRuns
) -> Blueprint:
    """Return the blueprint of `/workflows` and `/workflows/{name}`."""
    blueprint = Blueprint("workflows", __name__)

    @blueprint.get("/workflows")
    @Described(summary="The templates there are", tag=WORKFLOWS, scope="read", answers={200: WorkflowsView})
    def every() -> Response:
        found = [_summary(library.get(name)) for name in library.names()]
        # Names of files only: where they lie is the operator's business.
        problems: list[WorkflowProblemView] = [
            {"file": problem.file.name, "line": problem.line, "reason": problem.reason}
            for problem in library.problems()
        ]
        view: WorkflowsView = {"workflows": found, "problems": problems}
        return json_response(view)

    @blueprint.get("/workflows/<name>")
    @Described(
        summary="A template, and the schema of its parameters",
        tag=WORKFLOWS,
        scope="read",
        answers={200: WorkflowView},
        errors=(NotFound,),
    )
    def one(name: str) -> Response:
        template = _found(library, name)
        view: WorkflowView = {**_summary(template), "parameters": template.json_schema()}
        return json_response(view)

    @blueprint.post("/workflows/<name>")
    @Described(
        summary="Submit a job from a template",
        tag=WORKFLOWS,
        body=TemplateBody,
        form={"multipart/form-data": FORM},
        scope="submit",
        answers={201: JobView, 200: DryRunView},
        errors=(NotFound, *SUBMIT_ERRORS, IdempotencyKeyReuse, InvalidMetadata),
        parameters=(IDEMPOTENCY_KEY, DRY_RUN),
    )
    def submit(name: str) -> Response:
        trial = dry_runs.files() if is_dry_run() else None
        template = _found(library, name)
        if request.mimetype == "multipart/form-data":
            wanted = _from_form(template, settings, trial or intake)
        else:
            wanted = _from_json(template, settings)
        if trial is not None:
            return json_response(dry_run_view(dry_runs.of(wanted, trial)))
        job = service.submit(wanted)
        return json_response(job_view(job, links_for(settings, ledger)), 201)

    return blueprint


def _found(library: Library, name: str) -> Template:
    if name not in library.names():
        raise NotFound(f"There is no such workflow; there are: {', '.join(library.names())}.")
    return library.get(name)


def _from_json(template: Template, settings: Settings) -> JobRequest:
    key = fields.idempotency_key(request.headers.get("Idempotency-Key"))
    body = read(TemplateBody, read_json(settings))
    filled = template.fill(body.parameters, draw=draw_between)
    job = filled_request(filled, contract=CONTRACT_V2, template=template.name)
    return with_job_fields(replace(job, idempotency_key=key), body, settings, base_url(settings))


def _from_form(template: Template, settings: Settings, intake: Intake) -> JobRequest:
    """Read a form: each field is a parameter or says of the placement, and each file is a picture for one."""
    key = fields.idempotency_key(request.headers.get("Idempotency-Key"))
    with upload_form(settings) as form:
        values = form.texts()
        own = [name for name in PlacementBody.model_fields if name in values and name not in template.parameters]
        placement = read(PlacementBody, {name: _json_of(values.pop(name)) for name in own})
        for name, file in form.files().items():
            parameter = template.parameters.get(name.lower())
            if parameter is None or parameter.type != "image":
                raise InvalidRequest(f"{template.name} has no parameter {name[:60]!a} that takes a picture.")
            picture, _ = intake.receive(
                file.stream,
                name=safe_name(file.filename or name),
                declared=file.mimetype,
                kind="image",
                subject=f"The file for {parameter.name}",
            )
            values[name] = picture.id
    # Numbers come as text in a form.
    filled = template.fill(values, draw=draw_between, coerce=True)
    job = filled_request(filled, contract=CONTRACT_V2, template=template.name)
    return with_placement(replace(job, idempotency_key=key), placement, settings)


def _json_of(text: str) -> Any:
    """Return what a form's field says in a JSON body: nothing if it is blank, and text if it is no JSON."""
    if not text.strip():
        return None
    try:
        return loads(text.encode())
    except InvalidBody:
        return text


def _summary(template: Template) -> WorkflowSummaryView:
    view: WorkflowSummaryView = {
        "name": template.name,
        "title": template.title,
        "description": template.description,
    }
    if template.requires is not None:
        view["requires"] = requirements_view(template.requires)
    return view
