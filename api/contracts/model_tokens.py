"""The tokens of model sources over HTTP, for operators: enter, list by name, forget. No answer holds a token."""

from __future__ import annotations

import re
from typing import Annotated

from flask import Blueprint, Response
from pydantic import Field
from typing_extensions import TypedDict

from api.http.caller import actor
from api.http.errors import json_response
from api.http.json_body import read_json
from api.http.time_limits import bounded, ledger_time_limit
from api.schema.described import SERVER, Described
from api.schema.model_bodies import ModelTokenBody
from api.schema.validation import read
from core.contracts.comfy_v2 import timestamp
from core.errors import InvalidRequest, LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ModelTokenView(TypedDict):
    """A token for model sources."""

    name: Annotated[str, Field(description="By which entries of the manifest ask for it.")]
    updated_at: str


class ModelTokensView(TypedDict):
    model_tokens: list[ModelTokenView]


class TokenRemovedView(TypedDict):
    removed: Annotated[str, Field(description="The name of the token that is gone.")]


def model_tokens_blueprint(settings: Settings, ledger: Ledger) -> Blueprint:
    """Return the routes under /api/v2/model-tokens: an extension, for operators."""
    blueprint = Blueprint("model_tokens", __name__, url_prefix="/api/v2/model-tokens")

    @blueprint.get("")
    @Described(
        summary="The names of the tokens for model sources",
        tag=SERVER,
        scope="models",
        answers={200: ModelTokensView},
        errors=(LedgerUnavailable,),
    )
    @bounded
    def every() -> Response:
        view: ModelTokensView = {
            "model_tokens": [
                {"name": name, "updated_at": timestamp(at)} for name, at in ledger.model_tokens.names().items()
            ]
        }
        return json_response(view)

    @blueprint.put("/<token_name>")
    @Described(
        summary="Enter a token for model sources",
        tag=SERVER,
        body=ModelTokenBody,
        scope="models",
        answers={200: ModelTokenView},
        errors=(InvalidRequest, LedgerUnavailable),
        text="It takes the place of one of this name. It is sealed, and no answer ever holds it.",
    )
    def enter(token_name: str) -> Response:
        if not _NAME.fullmatch(token_name):
            raise InvalidRequest("A token's name is 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or a digit.")
        body = read(ModelTokenBody, read_json(settings))
        with ledger_time_limit():
            entered_ms = ledger.model_tokens.put(token_name, body.token, by=actor())
        view: ModelTokenView = {"name": token_name, "updated_at": timestamp(entered_ms)}
        return json_response(view)

    @blueprint.delete("/<token_name>")
    @Described(
        summary="Forget a token for model sources",
        tag=SERVER,
        scope="models",
        answers={200: TokenRemovedView},
        errors=(NotFound, LedgerUnavailable),
    )
    @bounded
    def remove(token_name: str) -> Response:
        if not _NAME.fullmatch(token_name):
            raise NotFound("There is no such token.")
        ledger.model_tokens.remove(token_name, by=actor())
        view: TokenRemovedView = {"removed": token_name}
        return json_response(view)

    return blueprint
