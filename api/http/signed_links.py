"""Requests that come by a signed link: whether one does, and what its answer may be kept for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from flask import g, request

from api.http.errors import LinkRefused
from core.clock import now_ms
from core.links import EXPIRES, SIGNATURE, LinkSigner, events_of

#: The routes that a link opens: the part of the path that names the thing, and what signs it.
OPENED: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "assets.content": ("asset_id", lambda asset_id: asset_id),
    "v2.events": ("job_id", events_of),
}
METHODS = ("GET", "HEAD")


def comes_by_link(signer: LinkSigner) -> bool:
    """Return whether a signed link lets this request in: to one asset's bytes, or one job's events, until it ends.

    Raises: LinkRefused - there is a link, and it has ended or was changed.
    """
    opened = OPENED.get(request.endpoint or "")
    if SIGNATURE not in request.args or opened is None or request.method not in METHODS:
        return False
    place, signed_as = opened
    signed = signed_as(str((request.view_args or {}).get(place, "")))
    expires = request.args.get(EXPIRES, "")
    if not signer.is_genuine(signed, expires, request.args[SIGNATURE]):
        raise LinkRefused("The signature of this link does not fit it: the link is incomplete, or was changed.")
    # What we signed was a number.
    if int(expires) <= now_ms():
        raise LinkRefused("This link has ended. Ask for the job or the asset again: its answer has a new one.")
    g.link_end_ms = int(expires)
    return True


def cache_control() -> str | None:
    """Return how long an answer may be kept that a link led to: until the link ends. None: there was no link."""
    end_ms: int | None = g.get("link_end_ms")
    if end_ms is None:
        return None
    return f"private, max-age={max(0, end_ms // 1000 - int(time.time()))}, immutable"
