"""The OpenAPI document: what the router serves, in the words each route says of itself, with the models that check.

The models of answers are those that the views build, and the shape of a route's errors is the one its blueprint
answers with: nothing is described here a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

from flask import Flask
from typing_extensions import TypedDict
from werkzeug.routing import Rule

from api.contracts.comfyui.refused import COMFYUI
from api.contracts.mcp.protocol_errors import MCP
from api.http.error_shapes import COMFY_API, GENERATE_FAMILY, errors_of
from api.http.scopes import ANY_KEY
from api.schema.described import TAGS, WEBHOOKS, Described
from api.server.openapi_operations import (
    PLACE,
    OperationView,
    Route,
    Schemas,
    each_of,
    envelope_of,
    operation_of,
    security_of,
)
from core.contracts.comfy_v2_events import EventView
from core.contracts.generate import GenerateEventView
from core.texts.json_types import JsonObject

#: What is sent to webhooks, and what any route may answer.
_EVENTS = (EventView, GenerateEventView)
_ERRORS = (COMFY_API.view, GENERATE_FAMILY.view, COMFYUI.view, MCP.view)


class OpenApiView(TypedDict):
    """This document."""

    openapi: str
    info: JsonObject
    servers: list[JsonObject]
    tags: list[JsonObject]
    security: list[dict[str, list[str]]]
    paths: dict[str, dict[str, OperationView]]
    webhooks: JsonObject
    components: JsonObject


def openapi_document(app: Flask, *, has_keys: bool) -> OpenApiView:
    """Return the document of an application: every route that is described.

    Parameters:
      has_keys: whether a key must be sent.
    """
    routes = _routes(app)
    schemas = Schemas(_models(routes))
    keys = security_of(ANY_KEY, has_keys=has_keys)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Comfyline",
            "version": version("comfyline"),
            "summary": "One job API for any number of GPUs that run ComfyUI.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in TAGS],
        "security": keys,
        "paths": _paths(routes, schemas, has_keys=has_keys),
        "webhooks": {"event": {"post": _event(schemas)}},
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _routes(app: Flask) -> list[Route]:
    found = [
        Route(rule=rule, described=described, errors=errors_of(app, rule.endpoint))
        for rule in app.url_map.iter_rules()
        if (described := Described.of(app.view_functions[rule.endpoint])) is not None
    ]
    return sorted(found, key=lambda route: (TAGS.index(route.described.tag), route.rule.rule))


def _models(routes: Iterable[Route]) -> Iterator[type[Any]]:
    yield from (*_ERRORS, *_EVENTS)
    for route in routes:
        described = route.described
        if described.body is not None:
            yield described.body
            if described.is_enveloped:
                yield envelope_of(described.body)
        for answers in described.answers.values():
            yield from (each for each in each_of(answers) if isinstance(each, type))


def _paths(routes: Iterable[Route], schemas: Schemas, *, has_keys: bool) -> dict[str, dict[str, OperationView]]:
    paths: dict[str, dict[str, OperationView]] = {}
    names: set[str] = set()
    for route in routes:
        path = PLACE.sub(r"{\1}", route.rule.rule)
        for method in _methods(route.rule):
            name = _unique(route.rule.endpoint, names)
            paths.setdefault(path, {})[method.lower()] = operation_of(route, name, schemas, has_keys=has_keys)
    return paths


def _methods(rule: Rule) -> list[str]:
    methods = rule.methods or set()
    # Flask adds these two to what a route names; HEAD counts where it stands alone.
    return sorted(methods - {"HEAD", "OPTIONS"}) or sorted(methods - {"OPTIONS"})


def _unique(endpoint: str, names: set[str]) -> str:
    """Return a new name for an operation; views may have several routes."""
    name, number = endpoint.replace(".", "_"), 1
    while name in names:
        number += 1
        name = f"{endpoint.replace('.', '_')}_{number}"
    names.add(name)
    return name


def _event(schemas: Schemas) -> JsonObject:
    """Return the one request that we make."""
    headers = ("webhook-id", "webhook-timestamp", "webhook-signature", "X-Webhook-Event", "X-Webhook-Sequence")
    schema = {"anyOf": [schemas.reference(event) for event in _EVENTS]}
    return {
        "summary": "An event of a job, sent to its webhook",
        "tags": [WEBHOOKS],
        "security": [],
        "parameters": [{"name": name, "in": "header", "schema": {"type": "string"}} for name in headers],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"2XX": {"description": "Received. After any other answer it is sent again later."}},
    }
