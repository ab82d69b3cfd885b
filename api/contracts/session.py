"""Signing in from a browser: a key is presented once, and comes back in a cookie that no script can read.

The cookie is sent by this server's own pages alone (SameSite=Strict), and what it lets in is checked as a password of
a browser is: whose page it was is known of every request that changes anything.
"""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response, request
from pydantic import Field
from typing_extensions import TypedDict

from api.http.auth import SESSION_COOKIE, Guard
from api.http.errors import json_response
from api.http.json_body import read_json
from api.http.time_limits import bounded
from api.schema.described import KEYS, Described
from api.schema.session_bodies import SessionBody
from api.schema.validation import read
from core.clock import now_ms
from core.contracts.comfy_v2 import maybe_timestamp
from core.errors import LedgerUnavailable, Unauthorized
from core.ledger import Ledger
from core.records.access import ALL_TENANTS, Caller
from core.settings import Settings

#: A working day: whoever comes back the next one signs in again.
SESSION_S = 12 * 3600


class SessionView(TypedDict):
    asks_for_keys: Annotated[bool, Field(description="Whether this server needs a key of anybody.")]
    is_signed_in: Annotated[bool, Field(description="Whether this request may ask for more than what is open to all.")]
    tenant: str | None
    scopes: list[str]
    sees_all: Annotated[bool, Field(description="An operator's: it sees what all tenants own.")]
    templates: Annotated[list[str] | None, Field(description="The templates its jobs may be made from; null: all.")]
    max_priority: int | None
    ends_at: Annotated[str | None, Field(description="When its key ends.")]


def session_blueprint(settings: Settings, ledger: Ledger, guard: Guard) -> Blueprint:
    """Return the routes of `/api/v2/session`: an extension, for pages."""
    blueprint = Blueprint("session", __name__, url_prefix="/api/v2")

    @blueprint.get("/session")
    @Described(
        summary="Who this request is from",
        tag=KEYS,
        scope="any",
        answers={200: SessionView},
        errors=(LedgerUnavailable,),
        text="Needs no key: without one it says whether one is needed.",
    )
    @bounded
    def get() -> Response:
        return json_response(_view(guard, guard.caller()), 200, {"Cache-Control": "no-store"})

    @blueprint.post("/session")
    @Described(
        summary="Sign in from a browser",
        tag=KEYS,
        scope="any",
        body=SessionBody,
        answers={201: SessionView},
        errors=(LedgerUnavailable, Unauthorized),
        text="The answer sets a cookie that stands for the key for twelve hours at most. Programs send their key with "
        "each request instead.",
    )
    @bounded
    def sign_in() -> Response:
        key = read(SessionBody, read_json(settings)).key.strip()
        holder = guard.holder_of(key) if key else None
        if holder is None:
            raise Unauthorized("This is no key of this server, or one that has ended.")
        ends_at_ms = min(now_ms() + SESSION_S * 1000, holder.ends_at_ms or 2**62)
        answer = json_response(_view(guard, holder), 201, {"Cache-Control": "no-store"})
        _set_cookie(answer, ledger.sessions.seal(key, ends_at_ms=ends_at_ms), (ends_at_ms - now_ms()) // 1000)
        return answer

    @blueprint.delete("/session")
    @Described(summary="Sign out", tag=KEYS, scope="any", answers={204: None}, text="Safe to repeat.")
    def sign_out() -> Response:
        answer = Response(status=204)
        _set_cookie(answer, "", 0)
        return answer

    return blueprint


def _set_cookie(answer: Response, value: str, max_age_s: int) -> None:
    answer.set_cookie(
        SESSION_COOKIE, value, max_age=max_age_s, path="/", httponly=True, samesite="Strict", secure=request.is_secure
    )


def _view(guard: Guard, caller: Caller | None) -> SessionView:
    limits = None if caller is None else caller.limits
    return {
        "asks_for_keys": guard.asks_for_keys(),
        "is_signed_in": caller is not None,
        "tenant": None if caller is None else caller.tenant,
        "scopes": [] if caller is None else sorted(caller.scopes),
        "sees_all": caller is not None and caller.sees == ALL_TENANTS,
        "templates": None if limits is None or limits.templates is None else list(limits.templates),
        "max_priority": None if limits is None else limits.max_priority,
        "ends_at": None if caller is None else maybe_timestamp(caller.ends_at_ms),
    }
