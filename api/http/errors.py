"""Errors as HTTP answers: one table of status codes, and the envelope every 4xx and 5xx comes in."""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import quote

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from api.http.request_log import reference
from core.errors import (
    BodyTooLarge,
    ComfylineError,
    IdempotencyKeyReuse,
    InvalidBody,
    InvalidRequest,
    InvalidWorkflow,
    MissingAsset,
    NoHealthyInstance,
    NotFound,
    OutputUnavailable,
    PermanentError,
    QueueFull,
    RangeNotSatisfiable,
    RequestError,
    RequestIdReuse,
    StorageFull,
    StorageUnavailable,
    TransientError,
    Unauthorized,
    UnsupportedMediaType,
)
from core.storage.folders import is_out_of_room
from core.storage.marker import StorageMarker

log = logging.getLogger(__name__)

NO_ROOM = "The server has no room for files left; try again when its operator has made some."


class BadParameter(RequestError):
    """A header or a query parameter is wrong."""


class InvalidCursor(BadParameter):
    """The cursor of a list was not one of ours."""

    code = "invalid_cursor"


class InvalidMetadataFilter(BadParameter):
    """A label filter of a list breaks the rules of labels."""

    code = "invalid_metadata_filter"


class InvalidMetadata(InvalidRequest):
    """Labels break their rules."""

    code = "metadata_invalid"


class HashMismatch(RequestError):
    """An uploaded file is not the one its client meant."""

    code = "hash_mismatch"


class AssetInUse(RequestError):
    """The asset belongs to a job, and goes with it."""

    code = "asset_in_use"


class JobNotEnded(RequestError):
    """A job that has not ended cannot be deleted."""

    code = "job_not_ended"


class BlobNotFound(NotFound):
    """No file with this hash is here."""

    code = "blob_not_found"


class ForbiddenOrigin(RequestError):
    """A page of another site sent this request from somebody's browser."""

    code = "forbidden_origin"


class LinkRefused(RequestError):
    """A signed link has ended, or is not as we made it."""

    code = "link_refused"


class PreconditionFailed(RequestError):
    """The file is not the one that the client has in mind."""

    code = "precondition_failed"


class Misdirected(RequestError):
    """The Host header names somebody else."""

    code = "misdirected_request"


class RequestTimeout(RequestError):
    """The body did not arrive in time."""

    code = "request_timeout"


#: The most specific class decides.
STATUS: dict[type[ComfylineError], int] = {
    ComfylineError: 500,
    RequestError: 400,
    InvalidBody: 400,
    BadParameter: 400,
    Unauthorized: 401,
    ForbiddenOrigin: 403,
    LinkRefused: 403,
    NotFound: 404,
    RequestTimeout: 408,
    HashMismatch: 409,
    RequestIdReuse: 409,
    AssetInUse: 409,
    JobNotEnded: 409,
    PreconditionFailed: 412,
    BodyTooLarge: 413,
    UnsupportedMediaType: 415,
    RangeNotSatisfiable: 416,
    Misdirected: 421,
    InvalidRequest: 422,
    InvalidWorkflow: 422,
    MissingAsset: 422,
    IdempotencyKeyReuse: 422,
    QueueFull: 429,
    NoHealthyInstance: 429,
    TransientError: 503,
    StorageFull: 507,
    PermanentError: 500,
}
#: The `/generate` contract says 503 where the Comfy API says 429.
GENERATE_STATUS = STATUS | {QueueFull: 503, NoHealthyInstance: 503}
#: Codes of errors that come from routing and the web framework.
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large", 415: "unsupported_media_type"}


def status_of(error: ComfylineError, table: dict[type[ComfylineError], int] = STATUS) -> int:
    """The HTTP status of an error."""
    return next(table[kind] for kind in type(error).__mro__ if kind in table)


def envelope(code: str, message: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    """`{"error": {"code", "message", "details"}}`."""
    return {"error": {"code": code, "message": message, "details": details}}


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; ASCII only, so that no reader trips over a line separator in a string."""
    return Response(json.dumps(body), status=status, headers=headers, content_type="application/json")


def error_response(error: ComfylineError, *, table: dict[type[ComfylineError], int] = STATUS) -> Response:
    """An error as the Comfy API answers it."""
    return json_response(error_body(error, table=table), status_of(error, table), error_headers(error))


def error_body(error: ComfylineError, *, table: dict[type[ComfylineError], int] = STATUS) -> dict[str, Any]:
    """The envelope of an error; what a 500 was about stays in the log, under the reference that goes with it."""
    status = status_of(error, table)
    if status == 500:
        return _fault()
    if status > 500 and reference() is not None:
        return envelope(error.code, error.message, {**(error.details or {}), "request_id": reference()})
    return envelope(error.code, error.message, error.details)


def _fault() -> dict[str, Any]:
    found = reference()
    if found is None:
        return envelope("upstream_error", "Something went wrong on this server; the reason is in its log.")
    message = f"Something went wrong on this server; the reason is in its log, under {found}."
    return envelope("upstream_error", message, {"request_id": found})


def error_headers(error: ComfylineError) -> dict[str, str]:
    """What a client has to know beside the envelope."""
    if isinstance(error, TransientError):
        return {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": 'Bearer realm="comfyline"'}
    if isinstance(error, RangeNotSatisfiable):
        return {"Content-Range": f"bytes */{error.size_bytes}"}
    return {}


def register_error_handlers(app: Flask) -> None:
    """Put every error into the envelope: ours, the router's, and those nobody expected."""
    app.register_error_handler(ComfylineError, _ours)
    app.register_error_handler(HTTPException, _framework)
    app.register_error_handler(OSError, _disk)
    app.register_error_handler(Exception, _unforeseen)


def say_when_storage_is_away(app: Flask, marker: StorageMarker) -> None:
    """A file that is not there because the storage is not is not gone."""

    def not_there(error: OutputUnavailable) -> Response:
        marker.forget()
        try:
            marker.require()
        except StorageUnavailable as exc:
            return error_response(exc)
        return error_response(error)

    app.register_error_handler(OutputUnavailable, not_there)


def _ours(error: ComfylineError) -> Response:
    response = error_response(error)
    if response.status_code == 500:
        # A handled error does not reach Flask's own log.
        _log_fault(error)
    return response


def _unforeseen(error: Exception) -> Response:
    _log_fault(error)
    return json_response(_fault(), 500)


def _log_fault(error: Exception) -> None:
    log.error("unexpected error in %s %s, ref=%s", request.method, quote(request.path), reference(), exc_info=error)


def _disk(error: OSError) -> Response:
    if not is_out_of_room(error):
        return _unforeseen(error)
    log.error("no room left in %s %s: %s", request.method, quote(request.path), error.strerror)
    return error_response(StorageFull(NO_ROOM))


def _framework(error: HTTPException) -> Response:
    status = error.code or 500
    if status >= 500:
        return json_response(_fault(), status)
    code = _HTTP_CODES.get(status, "invalid_request")
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return json_response(envelope(code, _message(error, status)), status, headers)


def _message(error: HTTPException, status: int) -> str:
    if status == 404:
        hint = " What there is: /docs." if request.path == "/" else ""
        return f"There is nothing at {request.path[:200]}.{hint}"
    if status == 405:
        return f"{request.method} is not allowed here."
    return error.description or error.name
