"""The workflow templates over HTTP: which there are, what each takes, and a job from one."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from api import fields
from api.body import read_json
from api.client import base_url
from api.errors import json_response
from api.submit import Order, Service
from api.views import job_view
from core.errors import InvalidRequest, NotFound
from core.settings import Settings
from workflows.library import Library
from workflows.modifiers import draw_between
from workflows.template import Template

#: What a body may hold. Anything else is a mistake: most likely a parameter that is not inside `parameters`.
FIELDS = frozenset({"parameters", "priority", "timeout", "metadata", "extra_data"})


def workflows_blueprint(settings: Settings, service: Service, library: Library) -> Blueprint:
    """`/workflows` and `/workflows/{name}`."""
    blueprint = Blueprint("workflows", __name__)

    @blueprint.get("/workflows")
    def every() -> Response:
        found = [_summary(library.get(name)) for name in library.names()]
        # Names of files only: where they lie is the operator's business.
        problems = [
            {"file": problem.file.name, "line": problem.line, "reason": problem.reason}
            for problem in library.problems()
        ]
        return json_response({"workflows": found, "problems": problems})

    @blueprint.get("/workflows/<name>")
    def one(name: str) -> Response:
        template = _found(library, name)
        return json_response(_summary(template) | {"parameters": template.json_schema()})

    @blueprint.post("/workflows/<name>")
    def submit(name: str) -> Response:
        template = _found(library, name)
        job = service.submit(_order(template, settings))
        return json_response(job_view(job, base_url(settings)), 201)

    return blueprint


def _found(library: Library, name: str) -> Template:
    if name not in library.names():
        raise NotFound(f"There is no such workflow; there are: {', '.join(library.names())}.")
    return library.get(name)


def _order(template: Template, settings: Settings) -> Order:
    key = fields.idempotency_key(request.headers.get("Idempotency-Key"))
    body = read_json(settings)
    parameters = body.get("parameters") if isinstance(body, dict) else None
    if not isinstance(parameters, dict):
        raise InvalidRequest('The body must be an object: {"parameters": {...}}.')
    if unknown := sorted(set(body) - FIELDS):
        raise InvalidRequest(f"Unknown field {unknown[0][:60]!a}; values of the workflow go into parameters.")
    filled = template.fill(parameters, draw=draw_between)
    return Order(
        workflow=filled.graph, parameters=dict(filled.values), idempotency_key=key, **fields.order_fields(body)
    )


def _summary(template: Template) -> dict[str, Any]:
    return {"name": template.name, "title": template.title, "description": template.description}
