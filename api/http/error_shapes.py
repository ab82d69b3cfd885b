"""How each contract tells its clients of an error: the status, and the shape of the body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from flask import Blueprint, Flask, Response
from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from api.http.errors import GENERATE_STATUS, STATUS, json_response, status_of
from api.http.request_log import reference
from core.errors import ComfylineError, RangeNotSatisfiable, TransientError, Unauthorized
from core.texts.json_types import JsonObject


class ErrorBodyView(TypedDict):
    code: Annotated[str, Field(description="Stable; for programs.")]
    message: Annotated[str, Field(description="For people.")]
    details: JsonObject | None


class ErrorView(TypedDict):
    """The body of every 4xx and 5xx answer."""

    error: ErrorBodyView


class GenerateErrorView(ErrorView):
    """An `ErrorView` with the message once more, as older servers of this contract answer it."""

    detail: NotRequired[str]


@dataclass(frozen=True, kw_only=True)
class ErrorShape:
    """How one contract answers errors; its routes and the OpenAPI document both use it."""

    #: The status of each kind of error; the most specific class decides.
    statuses: Mapping[type[ComfylineError], int]
    #: The message also stands where older servers of the contract have it.
    has_detail: bool = False

    @property
    def view(self) -> type[Any]:
        """The model of its bodies."""
        return GenerateErrorView if self.has_detail else ErrorView

    def status(self, error: ComfylineError) -> int:
        """Return the HTTP status of an error."""
        return status_of(error, self.statuses)

    def body(self, error: ComfylineError) -> Any:
        """Return the body of an error; what a 500 was about stays in the log, under the reference that goes with it."""
        body = told_error(error, self.status(error))
        return {**body, "detail": body["error"]["message"]} if self.has_detail else body

    def response(self, error: ComfylineError) -> Response:
        """Return an error as an answer."""
        return json_response(self.body(error), self.status(error), error_headers(error))


COMFY_API = ErrorShape(statuses=STATUS)
GENERATE_FAMILY = ErrorShape(statuses=GENERATE_STATUS, has_detail=True)


class ContractBlueprint(Blueprint):
    """The routes of a contract whose errors have a shape of their own. All others answer as `COMFY_API`."""

    def __init__(self, name: str, import_name: str, *, errors: ErrorShape) -> None:
        super().__init__(name, import_name)
        self.errors = errors
        self.register_error_handler(ComfylineError, errors.response)


def errors_of(app: Flask, endpoint: str) -> ErrorShape:
    """Return the shape of the errors that a route answers."""
    blueprint = app.blueprints.get(endpoint.rpartition(".")[0])
    return blueprint.errors if isinstance(blueprint, ContractBlueprint) else COMFY_API


def envelope(code: str, message: str, details: JsonObject | None = None) -> ErrorView:
    """Return the body of an error that may be of any origin."""
    return {"error": {"code": code, "message": message, "details": details}}


def fault_body() -> ErrorView:
    """Return the body of a 500: no reason, but the reference under which the log has it."""
    found = reference()
    if found is None:
        return envelope("upstream_error", "Something went wrong on this server; the reason is in its log.")
    message = f"Something went wrong on this server; the reason is in its log, under {found}."
    return envelope("upstream_error", message, {"request_id": found})


def error_headers(error: ComfylineError) -> dict[str, str]:
    """Return what a client has to know beside the body."""
    if isinstance(error, TransientError) and error.retry_after_s is not None:
        return {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": 'Bearer realm="comfyline"'}
    if isinstance(error, RangeNotSatisfiable):
        return {"Content-Range": f"bytes */{error.size_bytes}"}
    return {}


def told_error(error: ComfylineError, status: int) -> ErrorView:
    if status == 500:
        return fault_body()
    if status > 500 and reference() is not None:
        return envelope(error.code, error.message, {**(error.details or {}), "request_id": reference()})
    return envelope(error.code, error.message, error.details)
