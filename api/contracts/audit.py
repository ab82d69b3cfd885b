"""The book of acts over HTTP, for operators: who did what, when, and from where."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response, request
from pydantic import Field
from typing_extensions import TypedDict

from api.http.errors import BadParameter, InvalidCursor, json_response
from api.http.time_limits import bounded
from api.schema import fields
from api.schema.described import CURSOR, USAGE, Described, Parameter, limit_of
from core.contracts.comfy_v2 import timestamp
from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.records.act import ACTS, Act
from core.texts.json_types import JsonObject

_ACT = Parameter(name="act", place="query", description="Only these.", schema={"type": "string", "enum": list(ACTS)})
_TEXTS = {
    "subject": "Only acts on this: the id or name of what it was done to.",
    "tenant": "Only acts by keys of this tenant.",
    "key_id": "Only acts by this key.",
}
_TIMES = {"from": "Not earlier.", "until": "Earlier."}
_PARAMETERS = (
    _ACT,
    *(
        Parameter(name=name, place="query", description=text, schema={"type": "string", "maxLength": 255})
        for name, text in _TEXTS.items()
    ),
    *(
        Parameter(name=name, place="query", description=text, schema={"type": "string", "format": "date-time"})
        for name, text in _TIMES.items()
    ),
    limit_of("acts"),
    CURSOR,
)


class ActorView(TypedDict):
    """Who did it."""

    who: Annotated[str, Field(description="The name of a key, user@host for a command, operator without either.")]
    key_id: Annotated[str | None, Field(description="Null: a key of the settings, or none.")]
    tenant: str | None
    address: Annotated[str | None, Field(description="Of the client; null for a command.")]


class ActView(TypedDict):
    """One act."""

    id: int
    at: str
    act: Annotated[str, Field(json_schema_extra={"enum": list(ACTS)})]
    subject: Annotated[str, Field(description="What it was done to: an id or a name.")]
    by: ActorView
    details: Annotated[JsonObject, Field(description="What else there is to say of it. No secrets.")]


class ActPageView(TypedDict):
    acts: list[ActView]
    next_cursor: str | None


def audit_blueprint(ledger: Ledger) -> Blueprint:
    """Return the route /api/v2/audit: an extension, for operators."""
    blueprint = Blueprint("audit", __name__, url_prefix="/api/v2")

    @blueprint.get("/audit")
    @Described(
        summary="Who did what, the newest first",
        tag=USAGE,
        scope="admin",
        answers={200: ActPageView},
        errors=(InvalidCursor, LedgerUnavailable),
        parameters=_PARAMETERS,
        text="Keys, tenants, GPUs, deletions, webhooks sent again, model files and their tokens, starts with their "
        "settings. Kept for COMFYLINE_AUDIT_RETENTION_S.",
    )
    @bounded
    def audit() -> Response:
        limit = fields.limit(request.args.get("limit"))
        # One more than is shown tells whether there is a next page.
        found = ledger.audit.page(
            act=_act(),
            subject=_text("subject"),
            tenant=_text("tenant"),
            key_id=_text("key_id"),
            from_ms=fields.moment("from", request.args.get("from")),
            until_ms=fields.moment("until", request.args.get("until")),
            limit=limit + 1,
            before=fields.number_cursor(request.args.get("cursor"), digits=18),
        )
        shown, rest = found[:limit], found[limit:]
        view: ActPageView = {
            "acts": [_view(each) for each in shown],
            "next_cursor": str(shown[-1].id) if rest else None,
        }
        return json_response(view)

    return blueprint


def _act() -> str | None:
    asked = request.args.get("act")
    if asked is not None and asked not in ACTS:
        raise BadParameter(f"Unknown act {asked[:40]!a}; known are {', '.join(ACTS)}.")
    return asked


def _text(name: str) -> str | None:
    value = request.args.get(name)
    if value is not None and (len(value) > fields.MAX_KEY_CHARS or "\0" in value):
        raise BadParameter(f"{name} must be at most {fields.MAX_KEY_CHARS} characters without NUL.")
    return value


def _view(act: Act) -> ActView:
    by = act.by
    return {
        "id": act.id,
        "at": timestamp(act.at_ms),
        "act": act.act,
        "subject": act.subject,
        "by": {"who": by.who, "key_id": by.key_id, "tenant": by.tenant, "address": by.address},
        "details": act.details,
    }
