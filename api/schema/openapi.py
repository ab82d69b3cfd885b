"""The OpenAPI document: what the router serves, in the words each route says of itself, with the models that check."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, TypeVar

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from api.http.auth import OPEN_PATHS
from api.http.errors import (
    GENERATE_STATUS,
    STATUS,
    BadParameter,
    ForbiddenOrigin,
    Misdirected,
    RequestTimeout,
    status_of,
)
from api.schema.answers import Error, Event, GenerateError, GenerateEvent
from api.schema.validation import Body, Envelope, Schema
from core.errors import (
    BodyTooLarge,
    ComfylineError,
    EditorWorkflow,
    InvalidBody,
    InvalidRequest,
    InvalidWorkflow,
    LedgerUnavailable,
    MissingAsset,
    NoHealthyInstance,
    QueueFull,
    StorageFull,
    StorageUnavailable,
    Unauthorized,
    UnsupportedMediaType,
)

JOBS, ASSETS, GENERATE = "Comfy API v2: jobs", "Comfy API v2: assets", "The /generate family"
WORKFLOWS, PYWORKER, WEBHOOKS, SERVER = "Workflows", "PyWorker routes", "Webhooks", "Server"
#: The groups, in the order in which they are shown.
TAGS = (JOBS, ASSETS, GENERATE, WORKFLOWS, PYWORKER, WEBHOOKS, SERVER)
#: What every route that reads a JSON body may answer.
BODY_ERRORS = (InvalidBody, BodyTooLarge, UnsupportedMediaType, RequestTimeout, InvalidRequest)
#: What every route that reads a form may answer.
FORM_ERRORS = (
    InvalidBody,
    BodyTooLarge,
    UnsupportedMediaType,
    RequestTimeout,
    InvalidRequest,
    LedgerUnavailable,
    StorageUnavailable,
    StorageFull,
)
#: What every route that takes a job in may answer beside those.
SUBMIT_ERRORS = (
    InvalidWorkflow,
    EditorWorkflow,
    MissingAsset,
    QueueFull,
    NoHealthyInstance,
    LedgerUnavailable,
    StorageUnavailable,
    StorageFull,
)

#: The model of a JSON answer, or the media type of another one, or nothing at all.
Answer = type[BaseModel] | str | None
#: The bytes of a file: what they are, the answer's Content-Type says.
ANY_TYPE = "*/*"
#: Several where the client chooses one by its Accept header, the usual one first.
Answers = Answer | tuple[Answer, ...]
V = TypeVar("V", bound=Callable[..., Any])
_ATTRIBUTE = "__openapi__"
_REF = "#/components/schemas/{model}"
_PLACE = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_OWN_WORDS = {499: "Client Closed Request"}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A header or a query parameter."""

    name: str
    #: `header` or `query`.
    place: str
    description: str
    schema: Mapping[str, Any]
    #: How a query parameter spells an object.
    style: str | None = None
    is_required: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the document has it."""
        shown = {"name": self.name, "in": self.place, "description": self.description, "schema": dict(self.schema)}
        needed = {"required": True} if self.is_required else {}
        return shown | needed | ({"style": self.style, "explode": True} if self.style else {})


@dataclass(frozen=True, kw_only=True)
class Described:
    """Decorates a view, beneath its route, with what the document says of it."""

    summary: str
    tag: str
    answers: Mapping[int, Answers]
    body: type[Body] | None = None
    #: It may be left out.
    is_optional: bool = False
    #: The body may come in the envelope of Vast's router.
    is_enveloped: bool = False
    #: The content of a body that is no JSON, as `form_of` makes it.
    form: Mapping[str, Any] | None = None
    #: Errors of its own; those of every body and of every route need not be named.
    errors: Sequence[type[ComfylineError]] = ()
    parameters: Sequence[Parameter] = ()
    text: str = ""

    def __call__(self, view: V) -> V:
        setattr(view, _ATTRIBUTE, self)
        return view


IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    place="header",
    description="Good for one submission within 24 hours.",
    schema={"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
)


def form_of(*needed: str, **texts: str) -> dict[str, Any]:
    """A multipart form for `Described.form`: a part `file`, and parts of text, name by name with what they mean."""
    parts: dict[str, Any] = {"file": {"type": "string", "contentMediaType": "application/octet-stream"}}
    parts |= {name: {"type": "string", "description": description} for name, description in texts.items()}
    return {"multipart/form-data": {"schema": {"type": "object", "properties": parts, "required": list(needed)}}}


def openapi_document(app: Flask, *, has_keys: bool) -> dict[str, Any]:
    """The document of an application: every route that is described.

    Parameters:
      has_keys: whether a key must be sent.
    """
    found = list(_described(app))
    models = {model for _, description in found for model in _models(description)}
    models |= {Error, GenerateError, Event, GenerateEvent}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=_REF, schema_generator=Schema
    )
    key = {"bearer": list[str]()}
    paths: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    for rule, description in found:
        path = _PLACE.sub(r"{\1}", rule.rule)
        for method in _methods(rule):
            is_open = rule.rule in OPEN_PATHS
            operation = _operation(rule, description, needs_key=has_keys and not is_open)
            operation["operationId"] = _unique(rule.endpoint, names)
            if is_open:
                operation["security"] = []
            paths.setdefault(path, {})[method.lower()] = operation
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
        "paths": paths,
        "webhooks": {"event": {"post": _event()}},
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(app: Flask) -> Iterator[tuple[Rule, Described]]:
    found = [(rule, getattr(app.view_functions[rule.endpoint], _ATTRIBUTE, None)) for rule in app.url_map.iter_rules()]
    described = [(rule, description) for rule, description in found if description is not None]
    yield from sorted(described, key=lambda pair: (TAGS.index(pair[1].tag), pair[0].rule))


def _methods(rule: Rule) -> list[str]:
    methods = rule.methods or set()
    # Flask adds these two to what a route names; HEAD counts where it stands alone.
    return sorted(methods - {"HEAD", "OPTIONS"}) or sorted(methods - {"OPTIONS"})


def _models(description: Described) -> Iterator[type[BaseModel]]:
    if description.body is not None:
        yield description.body
        if description.is_enveloped:
            yield _envelope(description.body)
    for answers in description.answers.values():
        for answer in answers if isinstance(answers, tuple) else (answers,):
            if isinstance(answer, type):
                yield answer


def _envelope(body: type[Body]) -> type[BaseModel]:
    # A class made at run time is beyond what the type checker can follow.
    return Envelope[body]  # type: ignore[valid-type]


def _unique(endpoint: str, names: set[str]) -> str:
    """A name for an operation; views may have several routes."""
    name, number = endpoint.replace(".", "_"), 1
    while name in names:
        number += 1
        name = f"{endpoint.replace('.', '_')}_{number}"
    names.add(name)
    return name


def _operation(rule: Rule, description: Described, *, needs_key: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": description.summary, "tags": [description.tag]}
    if description.text:
        operation["description"] = description.text
    parameters = [
        {"name": place, "in": "path", "required": True, "schema": {"type": "string"}}
        for place in _PLACE.findall(rule.rule)
    ] + [each.to_json() for each in description.parameters]
    if parameters:
        operation["parameters"] = parameters
    if description.body is not None:
        operation["requestBody"] = _request_body(description)
    elif description.form is not None:
        operation["requestBody"] = {"required": True, "content": dict(description.form)}
    operation["responses"] = _responses(description, needs_key=needs_key)
    return operation


def _event() -> dict[str, Any]:
    """The one request that we make."""
    headers = ("webhook-id", "webhook-timestamp", "webhook-signature", "X-Webhook-Event", "X-Webhook-Sequence")
    return {
        "summary": "An event of a job, sent to its webhook",
        "tags": [WEBHOOKS],
        "security": [],
        "parameters": [{"name": name, "in": "header", "schema": {"type": "string"}} for name in headers],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"anyOf": [_ref(Event), _ref(GenerateEvent)]}}},
        },
        "responses": {"2XX": {"description": "Received. After any other answer it is sent again later."}},
    }


def _request_body(description: Described) -> dict[str, Any]:
    assert description.body is not None
    bare = _ref(description.body)
    schema = {"anyOf": [bare, _ref(_envelope(description.body))]} if description.is_enveloped else bare
    return {"required": not description.is_optional, "content": {"application/json": {"schema": schema}}}


def _responses(description: Described, *, needs_key: bool) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in description.answers.items():
        responses[str(status)] = _response(_phrase(status), answer)
    is_generate = description.tag in (GENERATE, PYWORKER)
    for status, codes in sorted(_error_codes(description, needs_key=needs_key).items()):
        words = ", ".join(f"`{code}`" for code in codes)
        refused = _response(words, GenerateError if is_generate else Error)
        if str(status) not in responses:
            responses[str(status)] = refused
            continue
        # The end of a job, and an error on the way to it, may have the same status.
        both = responses[str(status)]
        schemas = [each["content"]["application/json"]["schema"] for each in (both, refused)]
        both["description"] += f", or {words}"
        both["content"]["application/json"]["schema"] = {"anyOf": schemas}
    return responses


def _error_codes(description: Described, *, needs_key: bool) -> dict[int, list[str]]:
    """The codes of all errors a route may answer, by status."""
    kinds: list[type[ComfylineError]] = [BadParameter, ForbiddenOrigin, Misdirected, *description.errors]
    if description.body is not None:
        kinds += BODY_ERRORS
    if needs_key:
        kinds.append(Unauthorized)
    table = GENERATE_STATUS if description.tag in (GENERATE, PYWORKER) else STATUS
    codes: dict[int, list[str]] = {}
    for kind in kinds:
        of_status = codes.setdefault(status_of(kind(""), table), [])
        if kind.code not in of_status:
            of_status.append(kind.code)
    return codes


def _response(words: str, answer: Answers) -> dict[str, Any]:
    if isinstance(answer, tuple):
        parts = [_response(words, each)["content"] for each in answer]
        return {"description": words, "content": {kind: part for each in parts for kind, part in each.items()}}
    if answer is None:
        return {"description": words}
    if isinstance(answer, str):
        return {"description": words, "content": {answer: {"schema": {"type": "string"}}}}
    return {"description": words, "content": {"application/json": {"schema": _ref(answer)}}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    # As pydantic names the class of a generic model.
    return {"$ref": _REF.format(model=re.sub(r"[^A-Za-z0-9.\-_]", "_", model.__name__))}


def _phrase(status: int) -> str:
    return _OWN_WORDS.get(status) or HTTPStatus(status).phrase
