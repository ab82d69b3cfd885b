"""Every error of the application as an answer: ours, the router's, and those nobody expected."""

from __future__ import annotations

import logging
from urllib.parse import quote

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from api.http.error_shapes import COMFY_API, envelope, fault_body
from api.http.errors import NO_ROOM, json_response
from api.http.request_log import reference
from core.errors import ComfylineError, OutputUnavailable, StorageFull, StorageUnavailable
from core.metrics.counted import STORAGE_ERRORS
from core.metrics.tally import process_tally
from core.storage.folders import BucketFault, is_out_of_room
from core.storage.marker import AWAY, StorageMarker

log = logging.getLogger(__name__)

#: Codes of errors that come from routing and the web framework.
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large", 415: "unsupported_media_type"}


def register_error_handlers(app: Flask) -> None:
    """Put every error into the envelope: ours, the router's, and those nobody expected."""
    app.register_error_handler(ComfylineError, _ours)
    app.register_error_handler(HTTPException, _framework)
    app.register_error_handler(OSError, _disk)
    app.register_error_handler(Exception, _unforeseen)


def say_when_storage_is_away(app: Flask, marker: StorageMarker) -> None:
    """Have missing files answered as storage that is away, where it is: they are not gone."""

    def not_there(error: OutputUnavailable) -> Response:
        marker.forget()
        try:
            marker.require()
        except StorageUnavailable as exc:
            return COMFY_API.response(exc)
        return COMFY_API.response(error)

    app.register_error_handler(OutputUnavailable, not_there)


def _ours(error: ComfylineError) -> Response:
    response = COMFY_API.response(error)
    if response.status_code == 500:
        # A handled error does not reach Flask's own log.
        _log_fault(error)
    return response


def _unforeseen(error: Exception) -> Response:
    _log_fault(error)
    return json_response(fault_body(), 500)


def _log_fault(error: Exception) -> None:
    log.error("unexpected error in %s %s, ref=%s", request.method, quote(request.path), reference(), exc_info=error)


def _disk(error: OSError) -> Response:
    if isinstance(error, BucketFault) and not is_out_of_room(error):
        process_tally.add(STORAGE_ERRORS, "answer")
        # Why is the operator's to know.
        log.error("the storage failed in %s %s: %s", request.method, quote(request.path), error.strerror)
        return COMFY_API.response(StorageUnavailable(AWAY))
    if not is_out_of_room(error):
        return _unforeseen(error)
    process_tally.add(STORAGE_ERRORS, "answer")
    log.error("no room left in %s %s: %s", request.method, quote(request.path), error.strerror)
    return COMFY_API.response(StorageFull(NO_ROOM))


def _framework(error: HTTPException) -> Response:
    status = error.code or 500
    if status >= 500:
        return json_response(fault_body(), status)
    code = _HTTP_CODES.get(status, "invalid_request")
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return json_response(envelope(code, _message(error, status)), status, headers)


def _message(error: HTTPException, status: int) -> str:
    if status == 404:
        return f"There is nothing at {request.path[:200]}."
    if status == 405:
        return f"{request.method} is not allowed here."
    return error.description or error.name
