"""Where the time of a job went: spans for OpenTelemetry, where its OTEL_ variables say where they are to go.

Without those nothing of OpenTelemetry is imported, and a span is only the trace that goes on. Whatever becomes of what
is recorded, the work goes on: it is sent from a thread of its own, and thrown away where nobody takes it.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Protocol, TypeAlias

from core import UNWANTED
from core.background import failure_of
from core.clock import now_ms
from core.errors import ComfylineError
from core.settings import traces_are_wanted

log = logging.getLogger(__name__)

#: Parts of a job's way: taken in; until a GPU took it; the ledger's decision; on the GPU; into storage; told.
SpanName: TypeAlias = Literal["submit", "wait", "claim", "run", "store", "webhook"]
Attribute: TypeAlias = str | int | float | bool | None


class Span:
    """A part of a job's way, of which nothing is recorded."""

    def __init__(self, traceparent: str | None) -> None:
        #: What goes on from it to whoever works for it.
        self.traceparent = traceparent

    def end(self, *, error: str | None = None, **attributes: Attribute) -> None:
        """End it now. Parameters: error - a code, and no text of others; None: it went well."""


class SpanRecorder(Protocol):
    """What records spans."""

    def begin(self, name: SpanName, parent: str | None, start_ms: int, attributes: Mapping[str, Attribute]) -> Span:
        """Begin a span below a `traceparent`; a new trace without one."""

    def record(
        self, name: SpanName, parent: str | None, start_ms: int, end_ms: int, attributes: Mapping[str, Attribute]
    ) -> None:
        """Record a span that is over."""

    def close(self) -> None:
        """Send what is left, within some seconds."""


class _Process:
    """What this process records with; None: nothing."""

    recorder: SpanRecorder | None = None


def set_up(process: str) -> None:
    """Begin to record, where that is wanted; in the process itself, after its fork.

    Parameters:
      process: what it is called: `api`, `gpu0@host`, `io@host`.
    """
    if _Process.recorder is not None or not traces_are_wanted():
        return
    for name in UNWANTED:
        if sys.modules.get(name, name) is None:
            del sys.modules[name]
    try:
        exporting = importlib.import_module("core.tracing.exporting")
    except ImportError as exc:
        log.warning(
            "OTEL_ variables ask for traces, and OpenTelemetry is not installed (%s): pip install 'comfyline[otel]', "
            "or set OTEL_SDK_DISABLED=true",
            exc.name,
        )
        return
    failure_of(lambda: setattr(_Process, "recorder", exporting.OpenTelemetry(process)), "traces")


def close() -> None:
    """Send what is left, within some seconds, and record no more."""
    recorder, _Process.recorder = _Process.recorder, None
    if recorder is not None:
        failure_of(recorder.close, "traces")


def are_recorded() -> bool:
    """Return whether this process records spans."""
    return _Process.recorder is not None


def begin(name: SpanName, parent: str | None, **attributes: Attribute) -> Span:
    """Begin a span below a `traceparent`. Where nothing is recorded, that goes on as it is."""
    recorder = _Process.recorder
    return Span(parent) if recorder is None else recorder.begin(name, parent, now_ms(), attributes)


def record(name: SpanName, parent: str | None, *, start_ms: int, end_ms: int, **attributes: Attribute) -> None:
    """Record a span that is over."""
    recorder = _Process.recorder
    if recorder is not None:
        recorder.record(name, parent, start_ms, max(start_ms, end_ms), attributes)


@contextmanager
def span(name: SpanName, parent: str | None, **attributes: Attribute) -> Iterator[Span]:
    """Record the block. What it raises ends the span with its code."""
    begun = begin(name, parent, **attributes)
    try:
        yield begun
    except BaseException as exc:
        begun.end(error=exc.code if isinstance(exc, ComfylineError) else type(exc).__name__)
        raise
    begun.end()
