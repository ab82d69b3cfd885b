"""Metrics on a port of their own, without a key; nothing else is served there, and no request there is logged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from api.server.metrics.scrape import Scraper
from api.server.metrics.text_format import CONTENT_TYPE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class MetricsPort:
    """Around the whole application: what comes to that port never reaches it."""

    def __init__(self, app: WSGIApplication, port: int, scraper: Scraper) -> None:
        self._app = app
        self._port = str(port)
        self._scraper = scraper

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # gunicorn has it from the socket that took the connection, and not from anything that a client sends.
        if environ.get("SERVER_PORT") != self._port:
            return self._app(environ, start_response)
        if environ.get("PATH_INFO") != "/metrics" or environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"This port serves GET /metrics and nothing else.\n"]
        text = self._scraper.answer()
        start_response("200 OK", [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(text)))])
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [text]
