"""The OpenAPI document: what the router serves, in the words each route says of itself, with the models that check.

The models of answers are those that the views build, and the shape of a route's errors is the one its blueprint
answers with: nothing is described here a second time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from flask import Flask
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from typing_extensions import NotRequired, TypedDict
from werkzeug.routing import Rule

from api.http.auth import OPEN_PATHS
from api.http.error_shapes import COMFY_API, GENERATE_FAMILY, ErrorShape, errors_of
from api.http.errors import BadParameter, ForbiddenOrigin, Misdirected
from api.schema.described import BODY_ERRORS, TAGS, WEBHOOKS, Answers, Described
from api.schema.validation import Body, Envelope, Schema
from core.contracts.comfy_v2_events import EventView
from core.contracts.generate import GenerateEventView
from core.errors import ComfylineError, Unauthorized
from core.texts.json_types import JsonObject

#: What is sent to webhooks, and what any route may answer.
_EVENTS = (EventView, GenerateEventView)
_ERRORS = (COMFY_API.view, GENERATE_FAMILY.view)
_REF = "#/components/schemas/{model}"
_PLACE = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_OWN_WORDS = {499: "Client Closed Request"}


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


class OperationView(TypedDict):
    """A method of a path."""

    summary: str
    tags: list[str]
    description: NotRequired[str]
    parameters: NotRequired[list[JsonObject]]
    requestBody: NotRequired[JsonObject]
    responses: dict[str, ResponseView]
    operationId: str
    security: NotRequired[list[dict[str, list[str]]]]


class ResponseView(TypedDict):
    """What a route may answer with one status."""

    description: str
    content: NotRequired[dict[str, JsonObject]]


@dataclass(frozen=True, kw_only=True)
class _Route:
    """A route of the router with what it says of itself."""

    rule: Rule
    described: Described
    #: How its blueprint answers errors.
    errors: ErrorShape


def openapi_document(app: Flask, *, has_keys: bool) -> OpenApiView:
    """Return the document of an application: every route that is described.

    Parameters:
      has_keys: whether a key must be sent.
    """
    routes = _routes(app)
    schemas = _Schemas(_models(routes))
    key = {"bearer": list[str]()}
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
        "security": [key] if has_keys else [{}, key],
        "paths": _paths(routes, schemas, has_keys=has_keys),
        "webhooks": {"event": {"post": _event(schemas)}},
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


class _Schemas:
    """The schemas of models, each once, and references to them."""

    def __init__(self, models: Iterable[type[Any]]) -> None:
        ordered = sorted(set(models), key=lambda model: model.__name__)
        self._references, found = TypeAdapter.json_schemas(
            [(_key(model), "validation", TypeAdapter(model)) for model in ordered],
            ref_template=_REF,
            schema_generator=Schema,
        )
        self.components: dict[str, JsonSchemaValue] = found.get("$defs", {})

    def reference(self, model: type[Any]) -> JsonSchemaValue:
        """Return the reference to a model's schema."""
        return self._references[_key(model), "validation"]


def _key(model: type[Any]) -> str:
    return f"{model.__module__}.{model.__qualname__}"


def _routes(app: Flask) -> list[_Route]:
    found = [
        _Route(rule=rule, described=described, errors=errors_of(app, rule.endpoint))
        for rule in app.url_map.iter_rules()
        if (described := Described.of(app.view_functions[rule.endpoint])) is not None
    ]
    return sorted(found, key=lambda route: (TAGS.index(route.described.tag), route.rule.rule))


def _models(routes: Iterable[_Route]) -> Iterator[type[Any]]:
    yield from (*_ERRORS, *_EVENTS)
    for route in routes:
        described = route.described
        if described.body is not None:
            yield described.body
            if described.is_enveloped:
                yield _envelope(described.body)
        for answers in described.answers.values():
            yield from (each for each in _each(answers) if isinstance(each, type))


def _each(answers: Answers) -> tuple[type[Any] | str | None, ...]:
    return answers if isinstance(answers, tuple) else (answers,)


def _envelope(body: type[Body]) -> type[Any]:
    # A class made at run time is beyond what the type checker can follow.
    return Envelope[body]  # type: ignore[valid-type]


def _paths(routes: Iterable[_Route], schemas: _Schemas, *, has_keys: bool) -> dict[str, dict[str, OperationView]]:
    paths: dict[str, dict[str, OperationView]] = {}
    names: set[str] = set()
    for route in routes:
        path = _PLACE.sub(r"{\1}", route.rule.rule)
        for method in _methods(route.rule):
            name = _unique(route.rule.endpoint, names)
            paths.setdefault(path, {})[method.lower()] = _operation(route, name, schemas, has_keys=has_keys)
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


def _operation(route: _Route, name: str, schemas: _Schemas, *, has_keys: bool) -> OperationView:
    described, is_open = route.described, route.rule.rule in OPEN_PATHS
    operation: OperationView = {
        "summary": described.summary,
        "tags": [described.tag],
        "responses": _responses(route, schemas, needs_key=has_keys and not is_open),
        "operationId": name,
    }
    if described.text:
        operation["description"] = described.text
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if (body := _request_body(described, schemas)) is not None:
        operation["requestBody"] = body
    if is_open:
        operation["security"] = []
    return operation


def _parameters(route: _Route) -> list[JsonObject]:
    places: list[JsonObject] = [
        {"name": place, "in": "path", "required": True, "schema": {"type": "string"}}
        for place in _PLACE.findall(route.rule.rule)
    ]
    return places + [each.to_json() for each in route.described.parameters]


def _request_body(described: Described, schemas: _Schemas) -> JsonObject | None:
    if described.body is None:
        return None if described.form is None else {"required": True, "content": dict(described.form)}
    bare = schemas.reference(described.body)
    schema = {"anyOf": [bare, schemas.reference(_envelope(described.body))]} if described.is_enveloped else bare
    return {"required": not described.is_optional, "content": {"application/json": {"schema": schema}}}


def _responses(route: _Route, schemas: _Schemas, *, needs_key: bool) -> dict[str, ResponseView]:
    responses = {
        str(status): _response(_phrase(status), answers, schemas) for status, answers in route.described.answers.items()
    }
    for status, codes in sorted(_error_codes(route, needs_key=needs_key).items()):
        words = ", ".join(f"`{code}`" for code in codes)
        refused = _response(words, route.errors.view, schemas)
        if str(status) in responses:
            _join(responses[str(status)], refused)
        else:
            responses[str(status)] = refused
    return responses


def _join(ended: ResponseView, refused: ResponseView) -> None:
    """Add an error to what is answered with the same status at the end of a job."""
    both = [each["content"]["application/json"]["schema"] for each in (ended, refused)]
    ended["description"] += f", or {refused['description']}"
    ended["content"]["application/json"]["schema"] = {"anyOf": both}


def _error_codes(route: _Route, *, needs_key: bool) -> dict[int, list[str]]:
    """Return the codes of all errors a route may answer, by status."""
    kinds: list[type[ComfylineError]] = [BadParameter, ForbiddenOrigin, Misdirected, *route.described.errors]
    if route.described.body is not None:
        kinds += BODY_ERRORS
    if needs_key:
        kinds.append(Unauthorized)
    codes: dict[int, list[str]] = {}
    for kind in kinds:
        of_status = codes.setdefault(route.errors.status(kind("")), [])
        if kind.code not in of_status:
            of_status.append(kind.code)
    return codes


def _response(words: str, answers: Answers, schemas: _Schemas) -> ResponseView:
    content: dict[str, JsonObject] = {}
    for answer in _each(answers):
        if isinstance(answer, str):
            content[answer] = {"schema": {"type": "string"}}
        elif answer is not None:
            content["application/json"] = {"schema": schemas.reference(answer)}
    return {"description": words, "content": content} if content else {"description": words}


def _phrase(status: int) -> str:
    return _OWN_WORDS.get(status) or HTTPStatus(status).phrase


def _event(schemas: _Schemas) -> JsonObject:
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
