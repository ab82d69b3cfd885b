"""Errors that the client mends: it must change the request; nothing was queued."""

from __future__ import annotations

from typing import Any

from core.errors.base import CarriesNodeErrors, ComfylineError, NamesJob


class RequestError(ComfylineError):
    """The client must change the request."""

    code = "invalid_request"


class InvalidBody(RequestError):
    """The body is not the JSON we accept."""


class BodyTooLarge(RequestError):
    """The body is over the limit."""

    code = "payload_too_large"


class UnsupportedMediaType(RequestError):
    """The body is not declared as a type we read."""

    code = "unsupported_media_type"


class InvalidRequest(RequestError):
    """The body is well-formed, but a field is wrong."""


class InvalidParameter(InvalidRequest):
    """A parameter of a template is missing, unknown, or cannot have its value."""

    def __init__(self, message: str, parameter: str = "") -> None:
        super().__init__(message, parameter)
        self.parameter = parameter

    @property
    def details(self) -> dict[str, Any] | None:
        return {"parameter": self.parameter}


class UnstorableValue(InvalidRequest):
    """A text or a number is nothing that the database can hold, such as a text with NUL in it."""


class InputUnavailable(InvalidRequest):
    """A file cannot be fetched from the URL that the client gave. Says no more of its host than a client may know."""

    code = "input_unavailable"


class RequirementsUnmet(InvalidRequest):
    """No GPU of the fleet is what the job requires; says which there are."""

    code = "requirements_unmet"


class InvalidWorkflow(CarriesNodeErrors, RequestError):
    """The graph cannot run."""

    code = "invalid_workflow"


class EditorWorkflow(InvalidWorkflow):
    """The graph is in the editor's save format."""

    code = "workflow_format_ui"


class MissingAsset(RequestError):
    """A referenced asset cannot be used."""

    code = "missing_asset"


class IdempotencyKeyReuse(NamesJob, RequestError):
    """The Idempotency-Key was used before: a key is good for one submission."""

    code = "idempotency_key_reuse"


class RequestIdReuse(NamesJob, RequestError):
    """The request_id belongs to a request with another body."""

    code = "request_id_reuse"

    @classmethod
    def of(cls, request_id: str, job_id: str | None = None) -> RequestIdReuse:
        """Return the error for a request id. Parameters: job_id - the job that has it."""
        return cls(
            f"request_id {request_id!r} is already used by a job that was made from another body: send a new one. With "
            "the same body it would be the same request.",
            job_id,
        )


class NotFound(RequestError):
    """There is no such thing, or it is not yours."""

    code = "not_found"


class AlreadyExists(RequestError):
    """There is one of that name already."""

    code = "already_exists"


class OutputUnavailable(NotFound):
    """The asset is known, but its bytes are gone."""

    code = "output_unavailable"


class Unauthorized(RequestError):
    """No API key, or a wrong one."""

    code = "unauthorized"


class RangeNotSatisfiable(RequestError):
    """The Range header asks for bytes that are not there."""

    code = "range_not_satisfiable"

    def __init__(self, message: str, size_bytes: int = 0) -> None:
        super().__init__(message, size_bytes)
        self.size_bytes = size_bytes
