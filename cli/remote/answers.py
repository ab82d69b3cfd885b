"""What a server answers: a job, a JSON object, or the error it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeAlias
from urllib.parse import urlsplit

import requests

from cli.remote.error_answers import envelope, words
from core.errors import RequestError, TransientError
from core.texts.json_types import JsonObject

#: A job as the API answers it: `id`, `status`, `progress`, `outputs`, `error`, ...
Job: TypeAlias = dict[str, Any]


class RequestRefused(RequestError):
    """The server understood, and said no. `envelope` is its answer: `{"error": {"code", "message", "details"}}`."""

    def __init__(self, message: str, envelope: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, envelope)
        self.envelope = envelope or {"error": {"code": self.code, "message": message, "details": None}}

    @property
    def server_code(self) -> str:
        """The server's own word for it, for instance `invalid_workflow`."""
        return str(self.envelope["error"].get("code"))


class ServerUnreachable(TransientError):
    """No answer, or an answer that says the server cannot work now."""


def job_of(answer: requests.Response) -> Job:
    """Return the job that was answered. Raises what `object_of` does."""
    return checked_job(object_of(answer), answer)


def checked_job(job: Any, answer: requests.Response) -> Job:
    """Return a job if it has an id and a status. Raises ServerUnreachable."""
    if not (isinstance(job, dict) and isinstance(job.get("id"), str) and isinstance(job.get("status"), str)):
        raise ServerUnreachable(f"{answer.url} answered something that is no job: is it a Comfy API server?")
    return job


def object_of(answer: requests.Response) -> JsonObject:
    """Return the JSON object that was answered. Raises RequestRefused, ServerUnreachable."""
    if not answer.ok:
        refuse(answer)
    try:
        value = answer.json()
    except ValueError as exc:
        raise ServerUnreachable(f"{answer.url} answered, but not with JSON: is it a Comfy API server?") from exc
    if not isinstance(value, dict):
        raise ServerUnreachable(f"{answer.url} answered with JSON of another shape: is it a Comfy API server?")
    return value


def refuse(answer: requests.Response) -> NoReturn:
    """Raise what an error answer means."""
    message = words(answer)
    if answer.status_code >= 500:
        raise ServerUnreachable(f"{urlsplit(answer.url).netloc} cannot do that now: {message}")
    if answer.status_code == 401:
        message += " Give the server's key by COMFY_API_KEY, or by comfyline --api-key."
    raise RequestRefused(message, envelope(answer))
