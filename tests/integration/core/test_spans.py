"""Spans go to a collector where OpenTelemetry's variables name one, and nowhere else; a collector costs no work."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from core.clock import now_ms
from core.errors import StorageUnavailable
from core.settings import traces_are_wanted
from core.trace_context import begun, trace_id_of
from core.tracing import spans
from tests.paths import ROOT
from tests.ports import free_port
from tests.receivers import Receiver, receiving
from tests.waiting import PATIENCE, until


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def exported(collector: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A collector to which this process sends its spans."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    spans.set_up("io@here")
    assert spans.are_recorded()
    yield collector
    spans.close()


def received(collector: Receiver) -> dict[str, Any]:
    """What has come so far, by name."""
    messages = [ExportTraceServiceRequest.FromString(each.content) for each in collector.received]
    scopes = [scope for message in messages for group in message.resource_spans for scope in group.scope_spans]
    return {span.name: span for scope in scopes for span in scope.spans}


def test_a_span_is_below_what_it_was_begun_with_and_goes_on_as_itself(exported: Receiver) -> None:
    above = begun()
    with spans.span("store", above, job_id="a", attempt=2, template=None) as span:
        inside = span.traceparent
    spans.record("wait", inside, start_ms=now_ms() - 5000, end_ms=now_ms() - 1000)

    until(lambda: {"store", "wait"} <= received(exported).keys(), timeout_s=10, what="both spans")
    store, wait = received(exported)["store"], received(exported)["wait"]
    assert store.trace_id.hex() == wait.trace_id.hex() == trace_id_of(above)
    assert store.parent_span_id.hex() == above.split("-")[2]
    assert wait.parent_span_id == store.span_id
    assert wait.end_time_unix_nano - wait.start_time_unix_nano == 4_000_000_000
    named = {each.key: each.value for each in store.attributes}
    assert set(named) == {"comfyline.job_id", "comfyline.attempt"}
    assert named["comfyline.attempt"].int_value == 2


def test_what_fails_is_told_by_a_code_and_no_word_of_it(exported: Receiver) -> None:
    with pytest.raises(StorageUnavailable), spans.span("store", None):
        raise StorageUnavailable("/srv/secret-place is away")

    until(lambda: "store" in received(exported), timeout_s=10, what="the span")
    found = received(exported)["store"]
    assert found.status.code == 2
    assert "secret-place" not in str(found)
    assert [each.value.string_value for each in found.attributes] == [StorageUnavailable.code]


def test_what_was_not_to_be_recorded_is_not(exported: Receiver) -> None:
    with spans.span("store", begun().removesuffix("01") + "00"):
        pass
    with spans.span("wait", begun()):
        pass
    until(lambda: "wait" in received(exported), timeout_s=10, what="the other span")
    assert "store" not in received(exported)


def test_a_collector_that_is_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{free_port()}/v1/traces")
    spans.set_up("io@here")
    began_s = time.monotonic()
    for _ in range(3000):
        with spans.span("store", begun()):
            pass
    assert time.monotonic() - began_s < 5 * PATIENCE
    spans.close()
    assert time.monotonic() - began_s < 10 * PATIENCE


@pytest.mark.parametrize(
    ("variables", "are_wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_the_variables_say_whether_there_are_spans(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], are_wanted: bool
) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert traces_are_wanted() == are_wanted


def test_nothing_of_opentelemetry_is_imported_unasked() -> None:
    program = (
        "import sys, api.wsgi, tasks.worker\n"
        "from core.tracing import spans\n"
        "spans.set_up('x')\n"
        "with spans.span('store', None) as span: assert span.traceparent is None\n"
        "loaded = [name for name, module in sys.modules.items() if module and name.startswith('opentelemetry')]\n"
        # Packages that redis-py looks into, which hold nothing themselves.
        "assert set(loaded) <= {'opentelemetry', 'opentelemetry.sdk'}, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60 * PATIENCE)


def test_a_missing_package_is_said_and_costs_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "core.tracing.exporting", None)
    spans.set_up("io@here")
    assert not spans.are_recorded()
    assert "pip install 'comfyline[otel]'" in caplog.text
