"""The API's description over HTTP: `/openapi.json` for programs, and `/docs`, one page with nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app
from jinja2 import Environment, StrictUndefined

from api.http.caller import base_url
from api.schema.answers import OpenApi
from api.schema.openapi import SERVER, Described, openapi_document
from api.schema.validation import allowed, properties
from core.settings import Settings

_TEMPLATE = (Path(__file__).parent / "docs_page.html").read_text(encoding="utf-8")
#: What a shell has a use of its own for.
_VARIABLES = {"path": "FILE_PATH"}
#: Pages kept, one for each address that clients know us by.
_PAGES = 8


def docs_blueprint(settings: Settings) -> Blueprint:
    """`/openapi.json` and `/docs`. Both say nothing that the project's own documents do not, and need no key."""
    blueprint = Blueprint("docs", __name__)
    has_keys = bool(settings.api_keys)

    @cache
    def document() -> dict[str, Any]:
        return openapi_document(current_app, has_keys=has_keys)

    @cache
    def document_text() -> str:
        return json.dumps(document())

    @lru_cache(maxsize=_PAGES)
    def page_text(base: str) -> str:
        return render_page(document(), base)

    @blueprint.get("/openapi.json")
    @Described(summary="This description, as OpenAPI 3.1", tag=SERVER, answers={200: OpenApi})
    def openapi() -> Response:
        return Response(document_text(), content_type="application/json")

    @blueprint.get("/docs")
    @Described(summary="This description, as a page to read", tag=SERVER, answers={200: "text/html"})
    def page() -> Response:
        headers = {"Content-Security-Policy": content_security_policy(), "X-Content-Type-Options": "nosniff"}
        return Response(page_text(base_url(settings)), headers=headers, content_type="text/html; charset=utf-8")

    return blueprint


@cache
def content_security_policy() -> str:
    """Nothing but the page's own style and script, which are named by their hashes."""
    return (
        f"default-src 'none'; style-src {_source('style')}; script-src {_source('script')}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _source(tag: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>", _TEMPLATE, re.DOTALL)
    assert found is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"


def render_page(document: Mapping[str, Any], base: str) -> str:
    """The page of a document.

    Parameters:
      base: scheme and host for the commands it shows.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(_TEMPLATE).render(
        info=document["info"], base=base, groups=list(_groups(document, base)), has_keys={} not in document["security"]
    )


def _groups(document: Mapping[str, Any], base: str) -> Iterator[dict[str, Any]]:
    """The routes by tag, as the template shows them."""
    for number, tag in enumerate(document["tags"], start=1):
        routes = [
            _route(document, base, path, method, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if tag["name"] in operation["tags"]
        ]
        yield {"id": f"group-{number}", "name": tag["name"], "routes": routes}


def _route(
    document: Mapping[str, Any], base: str, path: str, method: str, operation: Mapping[str, Any]
) -> dict[str, Any]:
    schema, is_enveloped = _body_schema(document, operation)
    examples = schema.get("examples", [])
    needs_key = operation.get("security") != [] and {} not in document["security"]
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "text": operation.get("description", ""),
        "parameters": [each | {"allowed": allowed(each["schema"])} for each in operation.get("parameters", [])],
        "fields": list(_rows(document, schema)),
        "is_enveloped": is_enveloped,
        "examples": [json.dumps(example, indent=2) for example in examples],
        "command": _command(document, base, path, method.upper(), operation, needs_key=needs_key),
        "responses": [_answer(document, status, each) for status, each in operation["responses"].items()],
    }


def _body_schema(document: Mapping[str, Any], operation: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The schema of a JSON body, or of a form, and whether it may also come in an envelope."""
    content = operation.get("requestBody", {}).get("content", {})
    for media in content.values():
        schema = media["schema"]
        is_enveloped = "anyOf" in schema
        return _resolved(document, schema["anyOf"][0] if is_enveloped else schema), is_enveloped
    return {}, False


def _answer(document: Mapping[str, Any], status: str, response: Mapping[str, Any]) -> dict[str, Any]:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    # Errors have one shape, which the page shows once.
    rows = [] if int(status) >= 400 else list(_rows(document, _resolved(document, schema)))
    return {"status": status, "words": response["description"].replace("`", ""), "fields": rows}


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the null of an optional field, and with the schema that a reference means."""
    options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    inner = options[0] if len(options) == 1 else schema
    if "$ref" in inner:
        name = inner["$ref"].rpartition("/")[2]
        found: Mapping[str, Any] = document["components"]["schemas"][name]
        return {**found, "description": schema.get("description") or found.get("description", "")}
    return {**inner, "description": schema.get("description") or inner.get("description", "")}


def _rows(document: Mapping[str, Any], schema: Mapping[str, Any], before: str = "") -> Iterator[dict[str, Any]]:
    """The fields of an object, those of inner objects and of the items of lists below them, each with its path."""
    for name, field in properties(schema).items():
        resolved = _resolved(document, field)
        yield {
            "path": before + name,
            "allowed": _kind(document, resolved),
            "is_needed": name in schema.get("required", []),
            "description": resolved["description"],
            "default": field.get("default"),
        }
        items = _resolved(document, resolved.get("items", {}))
        yield from _rows(document, items, f"{before}{name}[].")
        yield from _rows(document, resolved, f"{before}{name}.")


def _kind(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    options = [_resolved(document, option) for option in schema.get("anyOf", [])]
    return " or ".join(allowed(option) for option in options) if options else allowed(schema)


def _command(
    document: Mapping[str, Any], base: str, path: str, method: str, operation: Mapping[str, Any], *, needs_key: bool
) -> str:
    """A line for a shell that works as it stands, once its variables are set: `$JOB_ID` for `{job_id}`."""
    flags = {"GET": [], "HEAD": ["-I"]}.get(method, ["-X", method])
    if "text/event-stream" in _media_types(operation):
        # Else curl holds back what comes until there is much of it.
        flags = ["-N", *flags]
    needed = [each for each in operation.get("parameters", []) if each["in"] == "query" and each.get("required")]
    query = "&".join(f"{each['name']}={each['schema']['enum'][0]}" for each in needed)
    parts = ["curl", *flags, _quoted(f"{base}{path}" + (f"?{query}" if query else ""))]
    if needs_key:
        parts.append('-H "Authorization: Bearer $COMFY_API_KEY"')
    return " ".join(parts + _sent(document, operation))


def _sent(document: Mapping[str, Any], operation: Mapping[str, Any]) -> list[str]:
    """What a command sends: the first example of a JSON body, or the parts that a form cannot do without."""
    content = operation.get("requestBody", {}).get("content", {})
    schema, _ = _body_schema(document, operation)
    if "application/json" in content:
        body = json.dumps(schema["examples"][0]).replace("'", "'\\''")
        return [f"-H 'Content-Type: application/json' -d '{body}'"]
    fields = properties(schema)
    # curl reads a file where the value begins with an @.
    signs = {name: "@" if "contentMediaType" in fields[name] else "" for name in schema.get("required", [])}
    return [f'-F "{name}={sign}${name.upper()}"' for name, sign in signs.items()]


def _media_types(operation: Mapping[str, Any]) -> set[str]:
    return {media for response in operation["responses"].values() for media in response.get("content", {})}


def _quoted(url: str) -> str:
    """A URL for a shell, its places as variables; curl and shells would read `{`, `?` and `&` their own way."""
    pieces = re.split(r"\{(\w+)\}", url)
    literal = [re.sub(r'(["$`\\])', r"\\\1", piece) for piece in pieces[::2]]
    names = [f"${_VARIABLES.get(name, name.upper())}" for name in pieces[1::2]]
    return '"' + "".join(itertools.chain.from_iterable(itertools.zip_longest(literal, names, fillvalue=""))) + '"'
