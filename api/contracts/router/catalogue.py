"""The models of the router contract: the templates, in pages, and what each takes and gives as a document."""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from api.contracts.router.failures import RouterErrorView, UnknownModel
from api.contracts.router.requests import ResultView
from api.http.errors import InvalidCursor
from api.schema.fields import whole_number
from core.texts.json_types import JsonObject
from workflows.templates.library import Library
from workflows.templates.template import Template

#: The first part of each model's id.
PROVIDER: Final = "fleet"
DEFAULT_LIMIT, MAX_LIMIT = 20, 100
#: A larger one is taken for the largest page.
MOST_ASKED = 2**31


class BillingView(TypedDict):
    """What a run costs is the fleet's usage, see its own routes; a refusal costs nothing."""

    charges_on_policy_rejection: bool


class ModelView(TypedDict):
    id: str
    provider: str
    model: str
    title: str
    description: str
    billing: BillingView


class ModelsView(TypedDict):
    """A page of models."""

    data: list[ModelView]
    has_more: bool
    next_cursor: str | None
    limit: int


class Catalogue:
    """The templates as models.

    Parameters:
      library: the templates there are.
    """

    def __init__(self, library: Library) -> None:
        self._library = library

    def page(self, cursor: str | None, limit: str | None, allowed: Sequence[str] | None) -> ModelsView:
        """Return a page, by name.

        Parameters:
          allowed: names of the templates that the caller's key may use; None for all.
        Raises: BadParameter, InvalidCursor.
        """
        size = min(whole_number("limit", limit, DEFAULT_LIMIT, least=1, most=MOST_ASKED), MAX_LIMIT)
        after = "" if cursor is None else _name_of(cursor)
        names = [name for name in self._library.names() if name > after and (allowed is None or name in allowed)]
        shown, more = names[:size], names[size:]
        return {
            "data": [_view(self._library.get(name)) for name in shown],
            "has_more": bool(more),
            "next_cursor": _cursor_of(shown[-1]) if more else None,
            "limit": size,
        }

    def find(self, provider: str, name: str) -> Template:
        """Return the template of a model. Raises UnknownModel, which names the nearest there are."""
        names = self._library.names()
        if provider == PROVIDER and name in names:
            return self._library.get(name)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        meant = f" Nearest: {', '.join(f'{PROVIDER}/{each}' for each in near)}." if near else ""
        raise UnknownModel(f"There is no such model; GET /v2/models lists them.{meant}")


def model_document(template: Template) -> tuple[JsonObject, str]:
    """Return what a model takes and gives, as an OpenAPI document of its own, and its tag: the same for the same."""
    answer = TypeAdapter(ResultView).json_schema(ref_template="#/components/schemas/{model}")
    failure = TypeAdapter(RouterErrorView).json_schema(ref_template="#/components/schemas/{model}")
    schemas: dict[str, Any] = {**answer.pop("$defs", {}), **failure.pop("$defs", {})}
    schemas |= {"Input": template.json_schema(), "Result": answer, "Failure": failure}
    document: JsonObject = {
        "openapi": "3.1.0",
        "info": {"title": template.title or template.name, "description": template.description, "version": "1"},
        "paths": {
            f"/v2/models/{PROVIDER}/{template.name}": {
                "post": {
                    "summary": "Run it, and wait for what it makes",
                    "operationId": "run",
                    "requestBody": {"required": True, "content": _json("Input")},
                    "responses": {
                        "200": {"description": "What it made.", "content": _json("Result")},
                        "default": {"description": "What went wrong.", "content": _json("Failure")},
                    },
                }
            }
        },
        "components": {"schemas": schemas},
    }
    return document, hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]


def model_id(template: str) -> str:
    """Return the id of the model that a template is."""
    return f"{PROVIDER}/{template}"


def _view(template: Template) -> ModelView:
    return {
        "id": model_id(template.name),
        "provider": PROVIDER,
        "model": template.name,
        "title": template.title,
        "description": template.description,
        "billing": {"charges_on_policy_rejection": False},
    }


def _json(schema: str) -> JsonObject:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _cursor_of(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _name_of(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidCursor("The cursor is not one of this list: begin anew without one.") from None
