"""Routes of the PyWorker contract over HTTP: graphs of the client's own, tasks, and files by their path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import Field
from typing_extensions import TypedDict
from werkzeug.routing import PathConverter

from api.contracts.generate.routes import known_job
from api.http.caller import base_url, links_for
from api.http.error_shapes import GENERATE_FAMILY, ContractBlueprint
from api.http.errors import PreconditionFailed, json_response
from api.http.files import content_response
from api.http.forms import upload_form
from api.http.json_body import read_json
from api.http.time_limits import ledger_time_limit
from api.schema.blocks import is_blank
from api.schema.bodies import CustomWorkflowBody
from api.schema.conditions import CONDITIONS
from api.schema.described import ANY_TYPE, FORM_ERRORS, PYWORKER, SUBMIT_ERRORS, Described, form_of
from api.schema.validation import other_names, place_of, read_enveloped
from api.service.input_files import Intake
from api.service.job_drafts import EditorDocuments
from api.service.job_requests import filled_request, with_output_fields, with_placement
from api.service.jobs import JobService
from core.contracts.generate import ResultOutputView, ResultStatus, ResultView, generate_result
from core.contracts.registry import CONTRACT_GENERATE
from core.errors import LedgerUnavailable, NotFound, OutputUnavailable, RangeNotSatisfiable
from core.ledger import Ledger
from core.records.job import Job
from core.records.job_request import JobRequest
from core.settings import Settings
from core.storage.backend import output_storage
from workflows.graphs.file_names import is_safe_file_name, safe_name
from workflows.templates.modifiers import draw_between, graph_template

#: What no part of a path may be or hold, whatever encoding it came in.
_BAD_PARTS = ("", ".", "..")
_BAD_CHARACTERS = re.compile(r"[\x00-\x1f\x7f\\]")


class TaskView(TypedDict):
    id: str
    message: str
    status: ResultStatus
    output: list[ResultOutputView]


class UploadedImageView(TypedDict):
    success: bool
    filename: Annotated[
        str, Field(description="What a graph may call the file. Another one than sent where that is taken.")
    ]
    path: Annotated[str, Field(description="The same, for good: what a graph or a parameter calls the file.")]


class RefusedView(TypedDict):
    """An error in the words of the PyWorker contract."""

    error: str


class _WholePath(PathConverter):
    """A path as it came, one that begins with a slash too: those are refused in this contract's words."""

    regex = ".*?"
    part_isolating = False


def pyworker_blueprint(settings: Settings, ledger: Ledger, service: JobService, intake: Intake) -> Blueprint:
    """Return the blueprint of `/ping`, `/custom_workflow`, `/custom-workflow`, `/task/{id}`, `/download/{path}`."""
    blueprint = ContractBlueprint("pyworker", __name__, errors=GENERATE_FAMILY)
    blueprint.record_once(lambda state: state.app.url_map.converters.update(whole_path=_WholePath))

    @blueprint.get("/ping")
    @Described(summary="pong", tag=PYWORKER, scope="any", answers={200: "text/plain"})
    def ping() -> Response:
        return Response("pong", content_type="text/plain; charset=utf-8")

    @blueprint.post("/custom_workflow")
    @blueprint.post("/custom-workflow")
    @Described(
        summary="Submit a graph of your own",
        tag=PYWORKER,
        body=CustomWorkflowBody,
        is_enveloped=True,
        scope="submit",
        answers={202: ResultView},
        errors=SUBMIT_ERRORS,
    )
    def custom_workflow() -> Response:
        job = service.submit(_requested(read_json(settings), settings, service.check.documents))
        return json_response(generate_result(job, links=links_for(settings, ledger)), 202)

    @blueprint.post("/upload/image")
    @Described(
        summary="Upload a picture",
        tag=PYWORKER,
        form=form_of("file", name="Its name. Default: that of the part."),
        scope="submit",
        answers={200: UploadedImageView, 400: RefusedView},
        errors=FORM_ERRORS,
    )
    def upload_image() -> Response:
        with upload_form(settings) as form:
            part = form.optional_file("file", "image")
            name = form.text("name") or (part.filename if part else None)
            if not name:
                return _refused(400, "No filename provided")
            if not is_safe_file_name(name):
                return _refused(400, "Invalid path")
            head = part.stream.read(1) if part else b""
            if part is None or not head:
                return _refused(400, "No file data received")
            part.stream.seek(0)
            upload, _ = intake.receive(part.stream, name=safe_name(name), declared=part.mimetype, kind="image")
        named = service.settle_name(upload)
        view: UploadedImageView = {"success": True, "filename": named.name, "path": f"{named.id}/{named.name}"}
        return json_response(view)

    @blueprint.get("/task/<task_id>")
    @Described(
        summary="A task as it stands",
        tag=PYWORKER,
        scope="read",
        answers={200: TaskView, 404: TaskView},
        errors=(LedgerUnavailable,),
    )
    def task(task_id: str) -> Response:
        try:
            result = generate_result(_job(ledger, task_id), links=links_for(settings, ledger))
        except NotFound:
            return json_response(_unknown_task(task_id), 404)
        view: TaskView = {
            "id": result["id"],
            "message": result["message"],
            "status": result["status"],
            "output": result["output"],
        }
        return json_response(view)

    @blueprint.get("/download")
    @Described(summary="Says that a path is missing", tag=PYWORKER, scope="read", answers={400: RefusedView})
    def no_path() -> Response:
        return _refused(400, "No path provided")

    @blueprint.get("/download/<whole_path:path>")
    @Described(
        summary="The bytes of an output, by its local_path",
        tag=PYWORKER,
        scope="read",
        answers={
            200: ANY_TYPE,
            206: ANY_TYPE,
            304: None,
            400: RefusedView,
            404: RefusedView,
        },
        errors=(RangeNotSatisfiable, PreconditionFailed, LedgerUnavailable),
        parameters=CONDITIONS,
        text="The path is <job id>/<file name>.",
    )
    def download(path: str) -> Response:
        if not path:
            return no_path()
        parts = path.split("/")
        if any(part in _BAD_PARTS for part in parts) or _BAD_CHARACTERS.search(path):
            return _refused(400, "Invalid path")
        if len(parts) == 1:
            return _refused(400, f"Path is not a file: {path}")
        try:
            answer = _file(ledger, settings, parts)
        except (NotFound, OutputUnavailable):
            return _refused(404, f"File not found: {path}")
        disposition = answer.headers["Content-Disposition"].partition(";")[2]
        answer.headers["Content-Disposition"] = f"attachment;{disposition}"
        return answer

    return blueprint


def _requested(value: Any, settings: Settings, documents: EditorDocuments) -> JobRequest:
    body = read_enveloped(CustomWorkflowBody, value)
    values = body.custom_fields or {}
    template = graph_template(documents.as_graph(body.workflow))
    # Clients send steps and sizes with every graph, for the router's estimate; most graphs have no place for them.
    wanted = {name: value for name, value in values.items() if name.lower() in template.parameters}
    within = place_of(CustomWorkflowBody, value)
    _refuse_misplaced({name: value for name, value in values.items() if name not in wanted}, within)
    filled = template.fill(wanted, draw=draw_between)
    job = filled_request(filled, contract=CONTRACT_GENERATE, template=None)
    job = with_placement(job, body, settings, within=within)
    return with_output_fields(job, body, body.webhook, settings, base_url(settings), has_defaults=True)


def _refuse_misplaced(values: Mapping[str, Any], within: str) -> None:
    """Refuse values that fill no placeholder and belong beside the others: ignored, what they ask for would be lost.

    Raises: InvalidRequest - such as a priority; it says where that belongs.
    """
    names = {name: CustomWorkflowBody.our_name(name) for name, value in values.items() if not is_blank(value)}
    misplaced = {
        f"{within}custom_fields.{name}": f"{within}{ours}"
        for name, ours in names.items()
        if ours is not None and ours not in ("workflow", "custom_fields")
    }
    if misplaced:
        raise other_names((), misplaced)


def _job(ledger: Ledger, task_id: str) -> Job:
    with ledger_time_limit():
        return known_job(ledger, task_id)


def _file(ledger: Ledger, settings: Settings, parts: list[str]) -> Response:
    """A stored output of a job: what the ledger does not list cannot be named."""
    job = _job(ledger, parts[0])
    wanted = "/".join([job.id, *parts[1:]])
    for output in job.outputs:
        if output.storage_key == wanted:
            return content_response(output, output_storage(settings))
    raise NotFound("There is no such output.")


def _unknown_task(task_id: str) -> TaskView:
    return {"id": task_id, "status": "failed", "message": "Request ID not found", "output": []}


def _refused(status: int, words: str) -> Response:
    view: RefusedView = {"error": words}
    return json_response(view, status)
