"""Keys over HTTP, for operators: make, list, rotate, revoke."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response, request
from pydantic import Field
from typing_extensions import TypedDict

from api.http.caller import actor
from api.http.errors import json_response
from api.http.json_body import has_body, read_json
from api.http.time_limits import bounded, ledger_time_limit
from api.schema.described import KEYS, Described, Parameter
from api.schema.key_bodies import KeyBody, RotateBody
from api.schema.validation import read
from api.service.jobs import check_id
from core.contracts.comfy_v2 import maybe_timestamp, timestamp
from core.errors import InvalidRequest, LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.records.access import SCOPES, Key
from core.settings import Settings
from workflows.templates.library import Library

_TENANT = Parameter(name="tenant", place="query", description="Only the keys of this one.", schema={"type": "string"})


class KeyView(TypedDict):
    """A key, without what opens it."""

    id: str
    tenant: str
    name: str
    scopes: Annotated[list[str], Field(json_schema_extra={"items": {"type": "string", "enum": list(SCOPES)}})]
    max_priority: Annotated[int | None, Field(description="Null: that of the server.")]
    templates: Annotated[list[str] | None, Field(description="Null: all, and graphs of its own.")]
    pools: Annotated[list[str] | None, Field(description="Null: all.")]
    secrets: Annotated[int, Field(description="How many open it now: 2 while it is rotated, 0 if it was revoked.")]
    created_at: str
    ends_at: str | None
    revoked_at: str | None
    last_used_at: Annotated[str | None, Field(description="Some seconds late.")]
    last_used_by: Annotated[str | None, Field(description="The address of the client.")]


class SecretKeyView(KeyView):
    """A key with a secret that is told this once."""

    secret: Annotated[str, Field(description="Keep it: nobody can be told it again.")]


class KeysView(TypedDict):
    keys: list[KeyView]


def access_blueprint(settings: Settings, ledger: Ledger, library: Library) -> Blueprint:
    """Return the routes under /api/v2/keys: an extension, for operators."""
    blueprint = Blueprint("access", __name__, url_prefix="/api/v2")

    @blueprint.get("/keys")
    @Described(
        summary="The keys, the newest first",
        tag=KEYS,
        scope="admin",
        answers={200: KeysView},
        errors=(LedgerUnavailable, NotFound),
        parameters=(_TENANT,),
        text="Those that were revoked too.",
    )
    @bounded
    def every() -> Response:
        tenant = request.args.get("tenant")
        found = ledger.keys.all(tenant=None if tenant is None else check_id(tenant))
        view: KeysView = {"keys": [_key_view(each) for each in found]}
        return json_response(view)

    @blueprint.post("/keys")
    @Described(
        summary="Make a key",
        tag=KEYS,
        scope="admin",
        body=KeyBody,
        answers={201: SecretKeyView},
        errors=(NotFound, InvalidRequest, LedgerUnavailable),
        text="The answer has its secret, which nobody can be told again. The first key of a server that asked for none "
        "has everybody asked for one from then on. Templates that the server does not have are refused, with the "
        "nearest names.",
    )
    def create() -> Response:
        body = read(KeyBody, read_json(settings))
        library.check_names(body.templates or ())
        with ledger_time_limit():
            key, secret = ledger.keys.create(
                body.tenant,
                name=body.name,
                scopes=tuple(body.scopes),
                limits=body.limits(),
                ends_in_s=body.ends_in_s,
                by=actor(),
            )
        return _told(key, secret)

    @blueprint.post("/keys/<key_id>/rotate")
    @Described(
        summary="Give a key another secret",
        tag=KEYS,
        scope="admin",
        body=RotateBody,
        is_optional=True,
        answers={201: SecretKeyView},
        errors=(NotFound, InvalidRequest, LedgerUnavailable),
        text="The one before is good for a day more, or as long as the body says; one before that ends.",
    )
    def rotate(key_id: str) -> Response:
        body = read(RotateBody, read_json(settings)) if has_body() else RotateBody()
        with ledger_time_limit():
            key, secret = ledger.keys.rotate(check_id(key_id), keep_s=body.keep_s, by=actor())
        return _told(key, secret)

    @blueprint.post("/keys/<key_id>/revoke")
    @Described(
        summary="Have a key open nothing any more",
        tag=KEYS,
        scope="admin",
        answers={200: KeyView},
        errors=(NotFound, LedgerUnavailable),
        text="In every API process within a second. Safe to repeat.",
    )
    @bounded
    def revoke(key_id: str) -> Response:
        return json_response(_key_view(ledger.keys.revoke(check_id(key_id), by=actor())))

    return blueprint


def _told(key: Key, secret: str) -> Response:
    view: SecretKeyView = {**_key_view(key), "secret": secret}
    return json_response(view, 201, {"Cache-Control": "no-store"})


def _key_view(key: Key) -> KeyView:
    limits = key.limits
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": list(key.scopes),
        "max_priority": limits.max_priority,
        "templates": None if limits.templates is None else list(limits.templates),
        "pools": None if limits.pools is None else list(limits.pools),
        "secrets": key.secrets,
        "created_at": timestamp(key.created_at_ms),
        "ends_at": maybe_timestamp(key.ends_at_ms),
        "revoked_at": maybe_timestamp(key.revoked_at_ms),
        "last_used_at": maybe_timestamp(key.last_used_at_ms),
        "last_used_by": key.last_used_by,
    }
