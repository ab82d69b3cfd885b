"""One route in the OpenAPI document: what it takes and what it may answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from typing_extensions import NotRequired, TypedDict
from werkzeug.routing import Rule

from api.http.auth import is_open
from api.http.error_shapes import ErrorShape
from api.http.errors import BadParameter, ForbiddenOrigin, Misdirected, MissingScope
from api.http.scopes import ANY_KEY, Needed
from api.schema.described import BODY_ERRORS, Answers, Described
from api.schema.validation import Body, Envelope, Schema
from core.errors import ComfylineError, Unauthorized
from core.texts.json_types import JsonObject

#: A place in the path of a route, as the router writes it.
PLACE = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_REF = "#/components/schemas/{model}"
_OWN_WORDS = {499: "Client Closed Request"}


class OperationView(TypedDict):
    """A method of a path."""

    summary: str
    tags: list[str]
    description: NotRequired[str]
    parameters: NotRequired[list[JsonObject]]
    requestBody: NotRequired[JsonObject]
    responses: dict[str, ResponseView]
    operationId: str
    security: list[dict[str, list[str]]]


class ResponseView(TypedDict):
    """What a route may answer with one status."""

    description: str
    content: NotRequired[dict[str, JsonObject]]


@dataclass(frozen=True, kw_only=True)
class Route:
    """A route of the router with what it says of itself."""

    rule: Rule
    described: Described
    #: How its blueprint answers errors.
    errors: ErrorShape


class Schemas:
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


def operation_of(route: Route, name: str, schemas: Schemas, *, has_keys: bool) -> OperationView:
    """Return what the document says of a route.

    Parameters:
      name: its own in the document.
      has_keys: whether a key must be sent, unless the route is open to all.
    """
    described, needs_none = route.described, is_open(route.rule.rule)
    operation: OperationView = {
        "summary": described.summary,
        "tags": [described.tag],
        "responses": _responses(route, schemas, needs_key=has_keys and not needs_none),
        "operationId": name,
        "security": [] if needs_none else security_of(described.scope, has_keys=has_keys),
    }
    if text := _text(described, needs_none=needs_none):
        operation["description"] = text
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if (body := _request_body(described, schemas)) is not None:
        operation["requestBody"] = body
    return operation


def security_of(scope: Needed, *, has_keys: bool) -> list[dict[str, list[str]]]:
    """Return what a route asks for: a key by one of two headers, with a scope if need be.

    Parameters:
      has_keys: whether a key must be sent.
    """
    roles: list[str] = [] if scope == ANY_KEY else [scope]
    keys = [{"bearer": roles}, {"api_key": roles}]
    return keys if has_keys else [{}, *keys]


def _text(described: Described, *, needs_none: bool) -> str:
    needs = "" if needs_none or described.scope == ANY_KEY else f"Scope: {described.scope}."
    return " ".join(part for part in (described.text, needs) if part)


def _parameters(route: Route) -> list[JsonObject]:
    places: list[JsonObject] = [
        {"name": place, "in": "path", "required": True, "schema": {"type": "string"}}
        for place in PLACE.findall(route.rule.rule)
    ]
    return places + [each.to_json() for each in route.described.parameters]


def _request_body(described: Described, schemas: Schemas) -> JsonObject | None:
    if described.body is None:
        return None if described.form is None else {"required": True, "content": dict(described.form)}
    bare = schemas.reference(described.body)
    schema = {"anyOf": [bare, schemas.reference(envelope_of(described.body))]} if described.is_enveloped else bare
    return {"required": not described.is_optional, "content": {"application/json": {"schema": schema}}}


def _responses(route: Route, schemas: Schemas, *, needs_key: bool) -> dict[str, ResponseView]:
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


def _error_codes(route: Route, *, needs_key: bool) -> dict[int, list[str]]:
    """Return the codes of all errors a route may answer, by status."""
    kinds: list[type[ComfylineError]] = [BadParameter, ForbiddenOrigin, Misdirected, *route.described.errors]
    if route.described.body is not None:
        kinds += BODY_ERRORS
    if needs_key:
        kinds += [Unauthorized] if route.described.scope == ANY_KEY else [Unauthorized, MissingScope]
    codes: dict[int, list[str]] = {}
    for kind in kinds:
        of_status = codes.setdefault(route.errors.status(kind("")), [])
        if kind.code not in of_status:
            of_status.append(kind.code)
    return codes


def _response(words: str, answers: Answers, schemas: Schemas) -> ResponseView:
    content: dict[str, JsonObject] = {}
    for answer in each_of(answers):
        if isinstance(answer, str):
            content[answer] = {"schema": {"type": "string"}}
        elif answer is not None:
            content["application/json"] = {"schema": schemas.reference(answer)}
    return {"description": words, "content": content} if content else {"description": words}


def _phrase(status: int) -> str:
    return _OWN_WORDS.get(status) or HTTPStatus(status).phrase


def each_of(answers: Answers) -> tuple[type[Any] | str | None, ...]:
    """Return what a client may choose from."""
    return answers if isinstance(answers, tuple) else (answers,)


def envelope_of(body: type[Body]) -> type[Any]:
    """Return the model of a body as Vast's router wraps it."""
    # A class made at run time is beyond what the type checker can follow.
    return Envelope[body]  # type: ignore[valid-type]
