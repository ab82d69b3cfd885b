"""The client at the other end of this request: who it is, how it reached us, and whether it is still there."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

from flask import g, request

from api.http.request_log import TENANT
from core import log_fields
from core.ledger import Ledger
from core.links import Links
from core.records.access import Caller
from core.records.act import Actor
from core.records.tenant_limits import NO_LIMITS, TenantLimits
from core.settings import Settings

#: In the book of acts: who has a key of the settings, or was asked for none.
OPERATORS_NAME = "operator"


def base_url(settings: Settings) -> str:
    """Return scheme and host the client reached us by, without a closing slash.

    The official SDK sends its key only to the origin it was configured with, so links must name that one.
    """
    return settings.public_url.rstrip("/") or f"{request.scheme}://{request.host}"


def links_for(settings: Settings, ledger: Ledger) -> Links:
    """Return links that begin with the address the client reached us by."""
    return Links(base_url=base_url(settings), signer=ledger.links)


def set_caller(found: Caller, limits: TenantLimits = NO_LIMITS) -> None:
    """Note whom this request is from, and what its tenant may have at most, see `tenant_limits`."""
    g.caller = found
    g.tenant_limits = limits
    request.environ[TENANT] = found.tenant
    log_fields.note(tenant=found.tenant)


def caller() -> Caller:
    """Return whom this request is from. Raises AttributeError: nobody has found that out, as for open paths."""
    found: Caller = g.caller
    return found


def tenant_limits() -> TenantLimits:
    """Return what the tenant of this request may have at most: numbers, and None for as much as it likes."""
    found: TenantLimits = g.tenant_limits
    return found


def actor() -> Actor:
    """Return whom this request is from, as the book of acts has it."""
    who = caller()
    by = "" if who.key_id is not None else OPERATORS_NAME
    return Actor(who=by, key_id=who.key_id, tenant=who.tenant, address=request.remote_addr)


def highest_priority(settings: Settings) -> int:
    """Return the highest priority that the key of this request may use."""
    own = caller().limits.max_priority
    return settings.max_priority if own is None else min(own, settings.max_priority)


def hang_up_check() -> Callable[[], bool]:
    """Return a function that says whether this request's client has closed its connection; always False if unknown."""
    connection = request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket")
    if connection is None or isinstance(connection, ssl.SSLSocket):
        return lambda: False
    return lambda: _is_closed(connection)


def _is_closed(connection: Any) -> bool:
    try:
        timeout_s = connection.gettimeout()
        connection.settimeout(0.0)
        try:
            # Looked at, not taken: it may be the client's next request.
            return not connection.recv(1, socket.MSG_PEEK)
        finally:
            connection.settimeout(timeout_s)
    except BlockingIOError:
        return False
    except OSError:
        return True
