"""Routes of the PyWorker contract over HTTP: graphs of the client's own, tasks, and files by their path."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response
from werkzeug.routing import PathConverter

from api.assets import content_response
from api.body import read_json
from api.client import base_url
from api.errors import json_response
from api.generate import generate_error
from api.patience import ledger_patience
from api.submit import Order, Service, check_id
from core.errors import FleetError, InvalidRequest, NotFound, OutputUnavailable
from core.job import Job
from core.ledger import Ledger
from core.results import generate_result
from core.settings import Settings
from workflows.modifiers import draw_between, graph_template

#: What no part of a path may be or hold, whatever encoding it came in.
_BAD_PARTS = ("", ".", "..")
_BAD_CHARACTERS = re.compile(r"[\x00-\x1f\x7f\\]")


class _WholePath(PathConverter):
    """A path as it came, one that begins with a slash too: those are refused in this contract's words."""

    regex = ".*?"
    part_isolating = False


def pyworker_blueprint(settings: Settings, ledger: Ledger, service: Service) -> Blueprint:
    """`/ping`, `/custom_workflow`, `/custom-workflow`, `/task/{id}`, `/download/{path}`."""
    blueprint = Blueprint("pyworker", __name__)
    blueprint.register_error_handler(FleetError, generate_error)
    blueprint.record_once(lambda state: state.app.url_map.converters.update(whole_path=_WholePath))

    @blueprint.get("/ping")
    def ping() -> Response:
        return Response("pong", content_type="text/plain; charset=utf-8")

    @blueprint.post("/custom_workflow")
    @blueprint.post("/custom-workflow")
    def custom_workflow() -> Response:
        job = service.submit(_order(read_json(settings)))
        return json_response(generate_result(job, base_url=base_url(settings)), 202)

    @blueprint.get("/task/<task_id>")
    def task(task_id: str) -> Response:
        try:
            result = generate_result(_job(ledger, task_id), base_url=base_url(settings))
        except NotFound:
            return json_response(
                {"id": task_id, "status": "failed", "message": "Request ID not found", "output": []}, 404
            )
        return json_response({key: result[key] for key in ("id", "message", "status", "output")})

    @blueprint.get("/download")
    def no_path() -> Response:
        return _refused(400, "No path provided")

    @blueprint.get("/download/<whole_path:path>")
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


def _order(body: Any) -> Order:
    if not isinstance(body, dict) or not isinstance(body.get("workflow"), dict):
        raise InvalidRequest('The body must be an object: {"custom_fields": {...}, "workflow": {graph}}.')
    values = body.get("custom_fields") or {}
    if not isinstance(values, dict):
        raise InvalidRequest("custom_fields must be an object.")
    template = graph_template(body["workflow"])
    # Clients send steps and sizes with every graph, for the router's estimate; most graphs have no place for them.
    wanted = {name: value for name, value in values.items() if name.lower() in template.parameters}
    filled = template.fill(wanted, draw=draw_between)
    return Order(contract="generate", workflow=filled.graph, parameters=dict(filled.values) or None)


def _job(ledger: Ledger, task_id: str) -> Job:
    with ledger_patience():
        return ledger.jobs.get_by_request_id(check_id(task_id))


def _file(ledger: Ledger, settings: Settings, parts: list[str]) -> Response:
    """A stored output of a job: what the ledger does not list cannot be named."""
    job = _job(ledger, parts[0])
    wanted = "/".join([job.id, *parts[1:]])
    for output in job.outputs:
        if output.storage_key == wanted:
            return content_response(output, settings.outputs_dir)
    raise NotFound("There is no such output.")


def _refused(status: int, words: str) -> Response:
    return json_response({"error": words}, status)
