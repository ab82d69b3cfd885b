"""The client at the other end of this request: who it is, how it reached us, and whether it is still there."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

from flask import g, request

from core.ledger import Ledger
from core.links import Links
from core.records.access import Caller
from core.settings import Settings


def base_url(settings: Settings) -> str:
    """Return scheme and host the client reached us by, without a closing slash.

    The official SDK sends its key only to the origin it was configured with, so links must name that one.
    """
    return settings.public_url.rstrip("/") or f"{request.scheme}://{request.host}"


def links_for(settings: Settings, ledger: Ledger) -> Links:
    """Return links that begin with the address the client reached us by."""
    return Links(base_url=base_url(settings), signer=ledger.links)


def set_caller(found: Caller) -> None:
    """Note whom this request is from."""
    g.caller = found


def caller() -> Caller:
    """Return whom this request is from. Raises AttributeError: nobody has found that out, as for open paths."""
    found: Caller = g.caller
    return found


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
