"""One line in the log for each request, and the reference that a client can name when something went wrong.

A line says method, path, status, milliseconds, and the job where one is known. Never the query: links and tokens stand
there. It is written when the answer has ended, which for a stream is when its client has gone.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import quote

from flask import Flask, Response, has_request_context, request
from werkzeug.wsgi import ClosingIterator

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("comfyline.requests")

#: The header of each answer with its reference.
HEADER = "X-Request-Id"
#: What load balancers and supervisors ask all day.
QUIET_PATHS = frozenset({"/health", "/ready", "/api/v2/health"})
MAX_PATH_CHARS = 200

Level: TypeAlias = Literal["debug", "info", "warning", "error", "off"]
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_OFF = logging.CRITICAL + 1
_REFERENCE, _JOB = "fleet.reference", "fleet.job_id"


def register_request_log(app: Flask, level: Level) -> None:
    """Log the requests of an app.

    Parameters:
      level: the least important line there is: `debug` all of them, `info` without health checks that went well,
        `warning` what was refused or failed, `error` what failed here, `off` none.
    """
    log.setLevel(_LEVELS.get(level, _OFF))
    app.after_request(_note_job_of_path)
    app.wsgi_app = _RequestLog(app.wsgi_app)  # type: ignore[method-assign]


def reference() -> str | None:
    """Return the reference of the present request; None outside of one."""
    return request.environ.get(_REFERENCE) if has_request_context() else None


def note_job(job_id: str) -> None:
    """Note the job of the present request where its path does not name it."""
    if has_request_context():
        request.environ[_JOB] = job_id


def _note_job_of_path(response: Response) -> Response:
    job_id = (request.view_args or {}).get("job_id")
    if job_id is not None:
        request.environ.setdefault(_JOB, job_id)
    return response


class _RequestLog:
    """Around the whole application, so that nothing is answered without a line."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        begun_s = time.monotonic()
        # Ours, and no client's: one that many requests share would lead to the wrong line.
        found = environ[_REFERENCE] = uuid.uuid4().hex[:16]
        status = 500

        def start(line: str, headers: list[tuple[str, str]], *failure: Any) -> Any:
            nonlocal status
            status = int(line[:3])
            return start_response(line, [*headers, (HEADER, found)], *failure)

        def end() -> None:
            _say(environ, status, time.monotonic() - begun_s)

        try:
            answer = self._app(environ, start)
        except BaseException:
            end()
            raise
        return ClosingIterator(answer, end)


def _say(environ: WSGIEnvironment, status: int, seconds: float) -> None:
    level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
    path = str(environ.get("PATH_INFO", ""))
    if path in QUIET_PATHS:
        # That a server is not ready is the answer to the question, and no fault: probes ask every few seconds.
        level = {logging.INFO: logging.DEBUG, logging.ERROR: logging.INFO}.get(level, level)
    # WSGI has a path as bytes that are written as Latin-1; quoted it has no line breaks.
    shown = quote(path.encode("latin-1", "replace"), safe="/:@!$&'()*+,;=-._~")[:MAX_PATH_CHARS]
    method = quote(str(environ.get("REQUEST_METHOD", "")))[:20]
    job_id = environ.get(_JOB)
    job = f" job={quote(str(job_id))[:MAX_PATH_CHARS]}" if job_id else ""
    log.log(level, "%s %s %d %.0f ms%s ref=%s", method, shown, status, seconds * 1000, job, environ[_REFERENCE])
