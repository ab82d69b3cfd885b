"""OpenTelemetry: spans that go out by OTLP over HTTP. Imported only where the OTEL_ variables ask for it."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from core.clock import now_ms
from core.trace_context import written
from core.tracing.spans import Attribute, Span, SpanName

#: What the last spans of a process that ends may keep it waiting.
GOODBYE_S = 2.0
#: Of what the SDK calls a service of which it was told nothing.
_UNNAMED = "unknown_service"
_KINDS = {"submit": SpanKind.SERVER, "webhook": SpanKind.CLIENT}
_NS = 1_000_000


class OpenTelemetry:
    """Records the spans of one process, and sends them where `OTEL_EXPORTER_OTLP_ENDPOINT` says.

    Sampling, limits, headers and the name of the service are OpenTelemetry's own settings.
    """

    def __init__(self, process: str) -> None:
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED):
            resource = resource.merge(Resource({SERVICE_NAME: "comfyline"}))
        resource = resource.merge(Resource({SERVICE_INSTANCE_ID: process}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("comfyline")

    def begin(self, name: SpanName, parent: str | None, start_ms: int, attributes: Mapping[str, Attribute]) -> Span:
        return _Recorded(self._begun(name, parent, start_ms, attributes))

    def record(
        self, name: SpanName, parent: str | None, start_ms: int, end_ms: int, attributes: Mapping[str, Attribute]
    ) -> None:
        self._begun(name, parent, start_ms, attributes).end(end_ms * _NS)

    def close(self) -> None:
        # A collector that does not answer would hold the process for half a minute.
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(GOODBYE_S)

    def _begun(
        self, name: SpanName, parent: str | None, start_ms: int, attributes: Mapping[str, Attribute]
    ) -> OtelSpan:
        return self._tracer.start_span(
            name,
            context=_below(parent),
            kind=_KINDS.get(name, SpanKind.INTERNAL),
            start_time=start_ms * _NS,
            attributes=_named(attributes),
        )


class _Recorded(Span):
    """A span that is recorded."""

    def __init__(self, span: OtelSpan) -> None:
        found = span.get_span_context()
        super().__init__(written(f"{found.trace_id:032x}", f"{found.span_id:016x}", f"{found.trace_flags:02x}"))
        self._span = span

    def end(self, *, error: str | None = None, **attributes: Attribute) -> None:
        self._span.set_attributes(_named({**attributes, "error": error}))
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(now_ms() * _NS)


def _named(attributes: Mapping[str, Attribute]) -> dict[str, str | int | float | bool]:
    return {f"comfyline.{name}": value for name, value in attributes.items() if value is not None}


def _below(parent: str | None) -> Context:
    if parent is None:
        # Not whatever span this thread may be in: there is none of ours.
        return Context()
    _, trace_id, span_id, flags = parent.split("-")
    remote = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return set_span_in_context(NonRecordingSpan(remote), Context())
