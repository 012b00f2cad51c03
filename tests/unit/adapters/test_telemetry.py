"""Spans reach a collector as they are; one that is away costs a run neither time nor success."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ratchet.adapters.telemetry import surrounding, telemetry_of
from ratchet.adapters.telemetry_otlp import OtlpTelemetry
from ratchet.domain.tracing import Moment, Span, TraceContext
from ratchet.ports.telemetry import NoTelemetry

NOW = datetime(2013, 4, 1, 4, tzinfo=UTC)
ROOT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def span(context: TraceContext = ROOT, **values: object) -> Span:
    return Span("tune.0", context, "1" * 16, NOW, NOW + timedelta(seconds=2), **values)  # type: ignore[arg-type]


def test_a_span_is_told_with_all_it_has() -> None:
    kept = InMemorySpanExporter()
    told = OtlpTelemetry("http://collector", resource={"service.name": "retraining"}, exporter=kept)
    told.emit([span(attributes={"a": 1}, links=(ROOT,), moments=(Moment("verdict", NOW),), error="boom")])
    told.flush()
    (found,) = kept.get_finished_spans()
    assert found.context is not None
    assert found.parent is not None
    assert f"{found.context.trace_id:032x}" == ROOT.trace_id
    assert f"{found.parent.span_id:016x}" == "1" * 16
    assert found.start_time == int(NOW.timestamp()) * 10**9
    assert found.end_time == found.start_time + 2 * 10**9
    assert dict(found.attributes or {}) == {"a": 1}
    assert [event.name for event in found.events] == ["verdict"]
    assert f"{found.links[0].context.span_id:016x}" == ROOT.span_id
    assert found.status.description == "boom"
    assert found.resource.attributes["service.name"] == "retraining"


def test_a_span_that_is_not_sampled_is_not_told() -> None:
    kept = InMemorySpanExporter()
    told = OtlpTelemetry("http://collector", exporter=kept)
    told.emit([span(TraceContext(ROOT.trace_id, ROOT.span_id, sampled=False))])
    told.flush()
    assert kept.get_finished_spans() == ()


def test_a_collector_that_answers_nothing_is_waited_for_two_seconds_and_no_longer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told = OtlpTelemetry(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces")
        told.emit([span()])
        began = time.monotonic()
        told.flush()
        assert time.monotonic() - began < 4


def test_a_collector_that_is_away_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    told = OtlpTelemetry(f"http://127.0.0.1:{port}/v1/traces")
    told.emit([span()])
    began = time.monotonic()
    told.flush()
    assert time.monotonic() - began < 0.5, "nobody is there: nothing is waited for"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_more_than_can_wait_drops_the_oldest_and_blocks_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told = OtlpTelemetry(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces")
        began = time.monotonic()
        told.emit(span() for _ in range(20_000))
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_nothing_is_told_unless_the_variables_say_so(variables: dict[str, str]) -> None:
    assert isinstance(telemetry_of(variables), NoTelemetry)


def test_the_endpoints_own_variable_is_taken_as_it_is() -> None:
    general = telemetry_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"})
    own = telemetry_of({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/in", "OTEL_SERVICE_NAME": "x"})
    endpoints = [told._processor.span_exporter._endpoint for told in (general, own)]  # type: ignore[attr-defined]
    assert endpoints == ["http://c:4318/v1/traces", "http://c:4318/in"]


def test_the_span_around_a_publishers_code_is_found() -> None:
    assert surrounding() is None
    provider = TracerProvider()
    with trace.use_span(provider.get_tracer("t").start_span("job"), end_on_exit=True) as around:
        found = surrounding()
    assert found == TraceContext(
        f"{around.get_span_context().trace_id:032x}", f"{around.get_span_context().span_id:016x}"
    )
