"""The editor's documents over HTTP: what graph the fleet makes of one, without running it."""

from __future__ import annotations

from flask import Blueprint, Response
from typing_extensions import TypedDict

from api.http.errors import json_response
from api.http.json_body import read_json
from api.schema.bodies import ConversionBody
from api.schema.described import BODY_ERRORS, WORKFLOWS, Described
from api.schema.validation import read
from api.service.jobs import JobService
from core.errors import EditorWorkflow, InvalidWorkflow, LedgerUnavailable, NoHealthyInstance
from core.settings import Settings
from core.texts.json_types import JsonObject
from workflows.graphs.graph import parse_graph


class ConvertedView(TypedDict):
    workflow: JsonObject


def conversion_blueprint(settings: Settings, service: JobService) -> Blueprint:
    """Return the blueprint of `/convert`."""
    blueprint = Blueprint("conversion", __name__)

    @blueprint.post("/convert")
    @Described(
        summary="The graph of a document of the editor",
        tag=WORKFLOWS,
        body=ConversionBody,
        scope="submit",
        answers={200: ConvertedView},
        errors=(*BODY_ERRORS, InvalidWorkflow, EditorWorkflow, NoHealthyInstance, LedgerUnavailable),
    )
    def convert() -> Response:
        body = read(ConversionBody, read_json(settings))
        view: ConvertedView = {"workflow": parse_graph(service.check.documents.as_graph(body.workflow))}
        return json_response(view)

    return blueprint
