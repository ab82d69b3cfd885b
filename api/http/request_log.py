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

from core import log_fields
from core.metrics.counted import API_DURATION, API_REQUESTS
from core.metrics.tally import process_tally
from core.trace_context import begun, continued, read, trace_id_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("comfyline.requests")

#: The header of each answer with its reference.
HEADER = "X-Request-Id"
#: What load balancers, supervisors and Prometheus ask all day.
QUIET_PATHS = frozenset({"/health", "/ready", "/api/v2/health", "/metrics"})
MAX_PATH_CHARS = 200
#: Where the environment of a request has its tenant, once that is known.
TENANT = "fleet.tenant"

Level: TypeAlias = Literal["debug", "info", "warning", "error", "off"]
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_OFF = logging.CRITICAL + 1
_REFERENCE, _JOB, _ROUTE = "fleet.reference", "fleet.job_id", "fleet.route"
#: What is told apart in metrics; a client may send any word.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Open:
    """Requests of this process whose answers have not ended."""

    count = 0


open_requests = _Open()
_REFERENCE, _JOB, _RECEIVED, _TRACE = "fleet.reference", "fleet.job_id", "fleet.received_trace", "fleet.trace"


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
        log_fields.note(job_id=job_id)


def received_traceparent() -> str | None:
    """Return the `traceparent` that the present request brought; None: there is none, or it says nothing."""
    return request.environ.get(_RECEIVED) if has_request_context() else None


def traceparent() -> str | None:
    """Return what goes on from the present request, in the trace it brought or in a new one; None outside of one."""
    return request.environ.get(_TRACE) if has_request_context() else None


def note_trace(found: str | None) -> None:
    """Note that the present request goes on as another `traceparent`, such as that of a span of ours."""
    if found is not None and has_request_context():
        request.environ[_TRACE] = found
        log_fields.note(trace_id=trace_id_of(found))


def _note_job_of_path(response: Response) -> Response:
    if request.url_rule is not None:
        request.environ[_ROUTE] = request.url_rule.rule
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
        open_requests.count += 1
        # Ours, and no client's: one that many requests share would lead to the wrong line.
        found = environ[_REFERENCE] = uuid.uuid4().hex[:16]
        received = environ[_RECEIVED] = read(environ.get("HTTP_TRACEPARENT"))
        trace = environ[_TRACE] = begun() if received is None else continued(received)
        # A connection that is kept has its next request in the same greenlet.
        log_fields.begin(trace_id=trace_id_of(trace))
        status = 500

        def start(line: str, headers: list[tuple[str, str]], *failure: Any) -> Any:
            nonlocal status
            status = int(line[:3])
            process_tally.observe(API_DURATION, time.monotonic() - begun_s, _method(environ))
            return start_response(line, [*headers, (HEADER, found)], *failure)

        def end() -> None:
            open_requests.count -= 1
            process_tally.add(API_REQUESTS, _method(environ), environ.get(_ROUTE, "none"), str(status))
            _say(environ, status, time.monotonic() - begun_s)

        try:
            answer = self._app(environ, start)
        except BaseException:
            end()
            raise
        return ClosingIterator(answer, end)


def _method(environ: WSGIEnvironment) -> str:
    method = str(environ.get("REQUEST_METHOD", ""))
    return method if method in _METHODS else "other"


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
    duration_ms = round(seconds * 1000)
    told = {"method": method, "path": shown, "status": status, "duration_ms": duration_ms}
    # A stream ends long after its request began, perhaps in another greenlet's time.
    extra = {"job_id": job_id, "tenant": environ.get(TENANT), "trace_id": trace_id_of(environ[_TRACE])}
    extra |= {"request": {**told, "reference": environ[_REFERENCE]}}
    log.log(level, "%s %s %d %d ms%s ref=%s", method, shown, status, duration_ms, job, environ[_REFERENCE], extra=extra)
