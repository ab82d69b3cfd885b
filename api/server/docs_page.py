"""The API's description over HTTP: `/openapi.json` for programs, and `/docs`, one page with nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app
from jinja2 import Environment, StrictUndefined

from api.http.auth import Guard
from api.http.caller import base_url
from api.schema.described import SERVER, Described
from api.schema.validation import allowed, properties
from api.server.document_parts import body_schema, resolved
from api.server.openapi_document import OpenApiView, openapi_document
from api.server.shell_commands import command
from core.settings import Settings

_TEMPLATE = (Path(__file__).parent / "docs_page.html").read_text(encoding="utf-8")
#: Pages kept, one for each address that clients know us by.
_PAGES = 8


@dataclass(frozen=True, kw_only=True)
class _Field:
    """A row of a table of fields."""

    #: Of inner objects and items of lists too: `outputs[].url`.
    path: str
    #: What it may be, in words.
    allowed: str
    is_needed: bool
    description: str
    default: Any


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What a route answers with one status."""

    status: str
    words: str
    fields: Sequence[_Field]


@dataclass(frozen=True, kw_only=True)
class _Route:
    """A method of a path, as the page shows it."""

    id: str
    method: str
    path: str
    summary: str
    text: str
    #: As the document has them, each with what is `allowed`.
    parameters: Sequence[Mapping[str, Any]]
    fields: Sequence[_Field]
    is_enveloped: bool
    examples: Sequence[str]
    #: A line for a shell.
    command: str
    responses: Sequence[_Answer]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """The routes of one tag."""

    id: str
    name: str
    routes: Sequence[_Route]


def docs_blueprint(settings: Settings, guard: Guard) -> Blueprint:
    """Return the blueprint of `/openapi.json` and `/docs`, which need no key and tell only what is public."""
    blueprint = Blueprint("docs", __name__)

    @cache
    def document(has_keys: bool) -> OpenApiView:
        return openapi_document(current_app, has_keys=has_keys)

    @cache
    def document_text(has_keys: bool) -> str:
        return json.dumps(document(has_keys))

    @lru_cache(maxsize=_PAGES)
    def page_text(base: str, has_keys: bool) -> str:
        return render_page(document(has_keys), base)

    @blueprint.get("/openapi.json")
    @Described(summary="This description, as OpenAPI 3.1", tag=SERVER, scope="any", answers={200: OpenApiView})
    def openapi() -> Response:
        return Response(document_text(guard.asks_for_keys()), content_type="application/json")

    @blueprint.get("/docs")
    @Described(summary="This description, as a page to read", tag=SERVER, scope="any", answers={200: "text/html"})
    def page() -> Response:
        headers = {"Content-Security-Policy": content_security_policy(), "X-Content-Type-Options": "nosniff"}
        text = page_text(base_url(settings), guard.asks_for_keys())
        return Response(text, headers=headers, content_type="text/html; charset=utf-8")

    return blueprint


@cache
def content_security_policy() -> str:
    """Return a policy that permits nothing but the page's own style and script, named by their hashes."""
    return (
        f"default-src 'none'; style-src {_source('style')}; script-src {_source('script')}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _source(tag: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>", _TEMPLATE, re.DOTALL)
    assert found is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"


def render_page(document: Mapping[str, Any], base: str) -> str:
    """Return the page of a document.

    Parameters:
      base: scheme and host for the commands it shows.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(_TEMPLATE).render(
        info=document["info"], base=base, groups=list(_groups(document, base)), has_keys={} not in document["security"]
    )


def _groups(document: Mapping[str, Any], base: str) -> Iterator[_Group]:
    """Yield the routes by tag."""
    for number, tag in enumerate(document["tags"], start=1):
        routes = [
            _route(document, base, path, method, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if tag["name"] in operation["tags"]
        ]
        yield _Group(id=f"group-{number}", name=tag["name"], routes=routes)


def _route(document: Mapping[str, Any], base: str, path: str, method: str, operation: Mapping[str, Any]) -> _Route:
    schema, is_enveloped = body_schema(document, operation)
    examples = schema.get("examples", [])
    needs_key = operation.get("security") != [] and {} not in document["security"]
    return _Route(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        text=operation.get("description", ""),
        parameters=[each | {"allowed": allowed(each["schema"])} for each in operation.get("parameters", [])],
        fields=list(_rows(document, schema)),
        is_enveloped=is_enveloped,
        examples=[json.dumps(example, indent=2) for example in examples],
        command=command(document, base, path, method.upper(), operation, needs_key=needs_key),
        responses=[_answer(document, status, each) for status, each in operation["responses"].items()],
    )


def _answer(document: Mapping[str, Any], status: str, response: Mapping[str, Any]) -> _Answer:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    # Errors have one shape, which the page shows once.
    rows = [] if int(status) >= 400 else list(_rows(document, resolved(document, schema)))
    return _Answer(status=status, words=response["description"].replace("`", ""), fields=rows)


def _rows(document: Mapping[str, Any], schema: Mapping[str, Any], before: str = "") -> Iterator[_Field]:
    """Yield the fields of an object, those of inner objects and of the items of lists below them."""
    for name, field in properties(schema).items():
        meant = resolved(document, field)
        yield _Field(
            path=before + name,
            allowed=_kind(document, meant),
            is_needed=name in schema.get("required", []),
            description=meant["description"],
            default=field.get("default"),
        )
        items = resolved(document, meant.get("items", {}))
        yield from _rows(document, items, f"{before}{name}[].")
        yield from _rows(document, meant, f"{before}{name}.")


def _kind(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    options = [resolved(document, option) for option in schema.get("anyOf", [])]
    return " or ".join(allowed(option) for option in options) if options else allowed(schema)
