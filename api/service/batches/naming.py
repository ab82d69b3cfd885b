"""Which job of a batch an error is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from core.errors import ComfylineError, RequestError
from workflows.templates.parameters import shown

#: Varied values that an error names.
MAX_NAMED = 4


@contextmanager
def in_job(number: int, varied: Mapping[str, Any] | None) -> Iterator[None]:
    """Have errors about the client's request say which job they are about. Parameters: number - its place, from 0."""
    try:
        yield
    except RequestError as exc:
        told = ", ".join(f"{name}={shown(value)}" for name, value in list((varied or {}).items())[:MAX_NAMED])
        raise _with_place(exc, f"Job {number}{f' ({told})' if told else ''}: ") from exc


def _with_place(error: ComfylineError, place: str) -> ComfylineError:
    """Return the same error whose message begins so: it is the first argument of each, and all of them are kept."""
    message, *rest = error.args
    return type(error)(f"{place}{message}", *rest)
