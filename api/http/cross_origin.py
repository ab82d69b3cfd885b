"""Pages of other sites that an operator lets in: CORS, for exact origins and for nobody else.

No answer allows credentials: a page sends a key that it was given, never one that its reader's browser keeps for us.
"""

from __future__ import annotations

from collections.abc import Collection

from flask import Flask, Response, request

from core.settings import Settings

#: How long a browser may go by what it was told, in seconds; they keep no answer for longer than two hours.
MAX_AGE_S = 7200
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
#: What requests of ours may bring beside what any may.
_ASKED = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-Modified-Since, If-None-Match, If-Range, "
    "If-Unmodified-Since, Last-Event-ID, MCP-Protocol-Version, Mcp-Method, Mcp-Name, Range, X-API-Key, "
    "X-Include-ComfyUI-Response, X-Return-Outputs-As-Base64, traceparent, tracestate"
)
#: What a page may read of answers beside what it may of any.
_TOLD = (
    "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Idempotent-Replayed, Location, "
    "RateLimit, RateLimit-Policy, Retry-After, Sheet-Pages, WWW-Authenticate, X-Comfy-Error-Type, "
    "X-Comfy-Request-Id, X-Request-Id"
)


class CrossOrigin:
    """Which pages may ask, and what their browsers are told."""

    def __init__(self, settings: Settings) -> None:
        self._origins: Collection[str] = frozenset(settings.cors_origins)

    def register(self, app: Flask) -> None:
        """Tell browsers in every answer of the app, refusals too: a page has to be able to read why."""
        if self._origins:
            app.after_request(self._told)

    def lets_in(self, origin: str | None) -> bool:
        """Return whether a page of this origin may ask."""
        return origin in self._origins

    def _told(self, response: Response) -> Response:
        # Of whoever asks: what is kept on the way for one of them is not for all.
        response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin is None or not self.lets_in(origin):
            return response
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _TOLD
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response.headers["Access-Control-Allow-Methods"] = _METHODS
            response.headers["Access-Control-Allow-Headers"] = _ASKED
            response.headers["Access-Control-Max-Age"] = str(MAX_AGE_S)
        return response
