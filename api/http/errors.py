"""Errors that only a request can meet, and the HTTP status of every error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flask import Response

from core.errors import (
    AlreadyExists,
    BodyTooLarge,
    ComfylineError,
    IdempotencyKeyReuse,
    InvalidBody,
    InvalidRequest,
    InvalidWorkflow,
    LimitReached,
    MissingAsset,
    NoHealthyInstance,
    NotFound,
    PermanentError,
    QueueFull,
    RangeNotSatisfiable,
    RequestError,
    RequestIdReuse,
    StorageFull,
    TransientError,
    Unauthorized,
    UnsupportedMediaType,
)

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


class MoreMatch(RequestError):
    """More jobs match than when they were counted: nothing was done."""

    code = "more_match"


class BlobNotFound(NotFound):
    """No file with this hash is here."""

    code = "blob_not_found"


class ForbiddenOrigin(RequestError):
    """A page of another site sent this request from somebody's browser."""

    code = "forbidden_origin"


class MissingScope(RequestError):
    """The key is good, but not for this; says for what it would have to be."""

    code = "missing_scope"


class NotAllowed(RequestError):
    """The key may submit jobs, but not this one: its templates or pools are others."""

    code = "not_allowed"


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
    MissingScope: 403,
    NotAllowed: 403,
    LinkRefused: 403,
    NotFound: 404,
    RequestTimeout: 408,
    HashMismatch: 409,
    RequestIdReuse: 409,
    AlreadyExists: 409,
    AssetInUse: 409,
    JobNotEnded: 409,
    MoreMatch: 409,
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
    LimitReached: 429,
    NoHealthyInstance: 429,
    TransientError: 503,
    StorageFull: 507,
    PermanentError: 500,
}
#: The `/generate` contract says 503 where the Comfy API says 429: the fleet is full, whoever asks.
GENERATE_STATUS = STATUS | {QueueFull: 503, NoHealthyInstance: 503}


def status_of(error: ComfylineError, table: Mapping[type[ComfylineError], int] = STATUS) -> int:
    """Return the HTTP status of an error."""
    return next(table[kind] for kind in type(error).__mro__ if kind in table)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer; ASCII only, so that no reader trips over a line separator in a string."""
    return Response(json.dumps(body), status=status, headers=headers, content_type="application/json")
