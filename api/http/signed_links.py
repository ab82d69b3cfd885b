"""Requests that come by a signed link: whether one does, and what its answer may be kept for."""

from __future__ import annotations

import time

from flask import g, request

from api.http.errors import LinkRefused
from core.clock import now_ms
from core.links import EXPIRES, SIGNATURE, LinkSigner

#: The one route that a link opens, and the ways in which it may be asked.
ENDPOINT = "assets.content"
METHODS = ("GET", "HEAD")


def comes_by_link(signer: LinkSigner) -> bool:
    """Return whether a signed link lets this request in: to one asset's bytes alone, until the link ends.

    Raises: LinkRefused - there is a link, and it has ended or was changed.
    """
    if SIGNATURE not in request.args or request.endpoint != ENDPOINT or request.method not in METHODS:
        return False
    asset_id = str((request.view_args or {}).get("asset_id", ""))
    expires = request.args.get(EXPIRES, "")
    if not signer.is_genuine(asset_id, expires, request.args[SIGNATURE]):
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
