"""What goes wrong, in the words of the router contract: a bucket for each error, and a body without an envelope.

The buckets are the contract's own words, not codes of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from flask import Response
from typing_extensions import NotRequired, TypedDict

from api.http.error_shapes import ErrorShape, error_headers, fault_body
from api.http.errors import STATUS, ForbiddenOrigin, MissingScope, NotAllowed, json_response
from core.errors import (
    ComfylineError,
    IdempotencyKeyReuse,
    InvalidParameter,
    LimitReached,
    NoHealthyInstance,
    NotFound,
    QueueFull,
    RequestError,
    RequestIdReuse,
    TransientError,
    Unauthorized,
)

#: The header of each failure that says which bucket it is in.
ERROR_TYPE: Final = "X-Comfy-Error-Type"
UNPROCESSABLE: Final = 422


class UnknownModel(NotFound):
    """There is no template of this name."""


class UnknownRequest(NotFound):
    """No request of this model and this tenant has the id."""


class RunEnded(Exception):
    """A run has no result: it ended without one, or has not ended. What stands for it in answers."""

    bucket: ClassVar[str]
    status: ClassVar[int]
    retry_after_s: ClassVar[int | None] = None

    @property
    def message(self) -> str:
        """What happened and what to do, safe to show to a client."""
        return str(self.args[0])


class RunFailed(RunEnded):
    """A node raised, or what came of it could not be stored."""

    bucket = "provider_error"
    status = 502


class RunCanceled(RunEnded):
    """Somebody cancelled it."""

    bucket = "cancelled"
    status = 409


class RunExpired(RunEnded):
    """No GPU took it in time."""

    bucket = "queue_timeout"
    status = 504


class RunGoesOn(RunEnded):
    """It has not ended: whoever waited for it may ask again, under the same key."""

    bucket = "deadline_exceeded"
    status = 504
    retry_after_s = 1


class NoResultYet(RunEnded):
    """Its result was asked for before its end."""

    bucket = "concurrency_limit_exceeded"
    status = 409
    retry_after_s = 2


_BUCKETS: dict[type[ComfylineError], str] = {
    ComfylineError: "internal_error",
    RequestError: "invalid_input",
    Unauthorized: "unauthorized",
    MissingScope: "forbidden",
    NotAllowed: "forbidden",
    ForbiddenOrigin: "forbidden",
    NotFound: "request_not_found",
    UnknownModel: "model_not_found",
    LimitReached: "rate_limited",
    QueueFull: "queue_backlog_full",
    TransientError: "service_unavailable",
}
#: A key that is used for something else is no fault of the body here.
_STATUSES = STATUS | {IdempotencyKeyReuse: 409, RequestIdReuse: 409, NoHealthyInstance: 503}


class FieldProblemView(TypedDict):
    """What is wrong with one field."""

    loc: list[str]
    msg: str
    type: str


class RouterErrorView(TypedDict):
    """The body of each failure; which bucket it is in, the header X-Comfy-Error-Type says as well."""

    detail: str | list[FieldProblemView]
    error_type: NotRequired[str]


def bucket_of(error: ComfylineError) -> str:
    """Return the bucket of an error, one of the contract's words."""
    return next(_BUCKETS[kind] for kind in type(error).__mro__ if kind in _BUCKETS)


@dataclass(frozen=True, kw_only=True)
class RouterErrors(ErrorShape):
    """How this contract answers errors."""

    @property
    def view(self) -> type[Any]:
        """The model of its bodies."""
        return RouterErrorView

    def body(self, error: ComfylineError) -> Any:
        """Return the body of an error: of a 422 its fields, of any other a sentence and the bucket."""
        status = self.status(error)
        if status == UNPROCESSABLE:
            place = ["body", error.parameter] if isinstance(error, InvalidParameter) else ["body"]
            problem: FieldProblemView = {"loc": place, "msg": error.message, "type": "value_error"}
            listed: RouterErrorView = {"detail": [problem]}
            return listed
        told = fault_body()["error"]["message"] if status == 500 else error.message
        view: RouterErrorView = {"detail": told, "error_type": bucket_of(error)}
        return view

    def response(self, error: ComfylineError) -> Response:
        """Return an error as an answer."""
        headers = {**error_headers(error), ERROR_TYPE: bucket_of(error)}
        return json_response(self.body(error), self.status(error), headers)


def without_result(ended: RunEnded) -> Response:
    """Return the answer of a run that has no result."""
    view: RouterErrorView = {"detail": ended.message, "error_type": ended.bucket}
    pace = {} if ended.retry_after_s is None else {"Retry-After": str(ended.retry_after_s)}
    return json_response(view, ended.status, {**pace, ERROR_TYPE: ended.bucket})


ROUTER: Final = RouterErrors(statuses=_STATUSES)
