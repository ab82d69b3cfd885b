"""The error of a failed job: what its row, its answers and its webhooks say, and the whole beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit

from core.errors import (
    ComfylineError,
    ComfyOutOfMemory,
    PromptFailed,
    PromptInterrupted,
    PromptRejected,
    PromptStuck,
    PromptTimeout,
)
from core.records.job_error import JobError
from core.settings import Settings
from core.texts.discretion import forms_of, tells_machines_apart, without_places, without_secrets
from core.texts.excerpts import MESSAGE_CHARS, TRACEBACK_CHARS, WHOLE_CHARS, head_and_tail

Error = TypeVar("Error", bound=ComfylineError)


def job_error(exc: ComfylineError, *, job_id: str = "") -> JobError:
    """Make the error as the client sees it, at bearable length.

    Parameters:
      job_id: where the whole error is to be had, if it is kept.
    """
    # Most come from nodes and have been through this with the names of machines; the others name files of ours at most.
    exc = discreet(exc, secret=None, machines=())
    hint = f"; GET /api/v2/jobs/{job_id}/error has them" if job_id else ""
    error = _facts(exc)
    traceback = error.traceback
    return replace(
        error,
        message=head_and_tail(error.message, MESSAGE_CHARS, hint=hint),
        traceback=None if traceback is None else head_and_tail(traceback, TRACEBACK_CHARS, hint=hint),
    )


def reason_of(exc: ComfylineError) -> str:
    """Say why an attempt was lost, in one text: the job's log says no more of it."""
    error = job_error(exc)
    return f"{error.message}{error.place}"


def whole_error(exc: ComfylineError) -> JobError | None:
    """Make the error uncut; None if `job_error` says it all."""
    error = _facts(exc)
    is_cut = len(error.message) > MESSAGE_CHARS or len(error.traceback or "") > TRACEBACK_CHARS
    return error if is_cut else None


def machines_of(settings: Settings) -> list[str]:
    """Return the names under which this machine and the ones it is attached to may stand in what nodes raise."""
    places = [urlsplit(url) for url in settings.comfyui_urls]
    names = {settings.host, *(place.hostname or "" for place in places)}
    return sorted((name for name in names if tells_machines_apart(name)), key=len, reverse=True)


def discreet(exc: Error, *, secret: str | None, machines: Iterable[str]) -> Error:
    """Return the error without a secret, without places, and without what is beyond all measure.

    Parameters:
      secret: a node may repeat in what it raises what it was given.
    """
    forms = forms_of(secret) if secret else ()
    return _with_texts(exc, lambda text: discreet_text(text, secrets=forms, machines=machines))


def discreet_text(text: str, *, secrets: Iterable[str], machines: Iterable[str]) -> str:
    """Return a text of ComfyUI's without secrets and without places, and without what is beyond all measure.

    Parameters: secrets - the forms that they may have in it, see `forms_of`.
    """
    # Before anything is cut, which could leave a part of one.
    text = without_secrets(text, secrets)
    # Half a surrogate fits neither into a database nor into an answer.
    text = head_and_tail(text, WHOLE_CHARS).encode(errors="replace").decode()
    return without_places(text, machines)


def shortened(exc: Error) -> Error:
    """Return the error with no more text than a log line bears."""
    return _with_texts(exc, lambda text: head_and_tail(text, MESSAGE_CHARS))


def _with_texts(exc: Error, change: Callable[[str], str]) -> Error:
    parts = tuple(change(part) if isinstance(part, str) else part for part in exc.args)
    if parts == exc.args:
        return exc
    changed = type(exc)(*parts)
    changed.__cause__ = exc.__cause__
    return changed


def _facts(exc: ComfylineError) -> JobError:
    error = JobError(code=exc.code, message=exc.message)
    if isinstance(exc, (PromptFailed, ComfyOutOfMemory)):
        error = replace(error, traceback=exc.traceback)
    if isinstance(exc, (PromptFailed, ComfyOutOfMemory, PromptInterrupted, PromptTimeout, PromptStuck)):
        error = replace(error, node_id=exc.node_id, class_type=exc.node_class)
    if isinstance(exc, PromptRejected) and exc.node_errors:
        node_id, problem = next(iter(exc.node_errors.items()))
        error = replace(error, node_id=node_id, class_type=problem.get("class_type"))
    return error
