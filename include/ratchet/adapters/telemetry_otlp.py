"""Spans to an OpenTelemetry collector, by OTLP over HTTP: OpenTelemetry's own exporter and batch processor.

The SDK's tracer makes spans with ids and times of its own; ours have both already, because they are told by processes
that know nothing of each other and from the ledger. So its read-only spans are made directly.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from ratchet.adapters.connections import without_login
from ratchet.domain.tracing import Span, TraceContext

logger = logging.getLogger(__name__)
TIMEOUT_SECONDS = 5.0
FLUSH_SECONDS = 2.0
"""How long a task waits, at most, for what it told to be sent; the rest goes on in the background or is lost."""
PROBE_SECONDS = 0.5
MOST_WAITING = 2_048
SCOPE = InstrumentationScope("ratchet")
KINDS = {"internal": SpanKind.INTERNAL, "producer": SpanKind.PRODUCER, "consumer": SpanKind.CONSUMER}


class OtlpTelemetry:
    """``ratchet.ports.telemetry.Telemetry`` over OTLP. Threads may share it.

    Args:
        endpoint: where spans are posted to, with its path (``…/v1/traces``).
        headers: sent with each request, such as an authorisation.
        resource: attributes of whoever tells: ``service.name`` and more.
        exporter: tell there instead (tests).
    """

    on = True

    def __init__(
        self,
        endpoint: str,
        *,
        headers: Mapping[str, str] | None = None,
        resource: Mapping[str, str] | None = None,
        exporter: SpanExporter | None = None,
    ) -> None:
        # The exporter says each failure as an error with its stack; a collector that is away is no error of a run.
        logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)
        self._endpoint = endpoint if exporter is None else None
        self._resource = Resource({"service.name": "ratchet", **(resource or {})})
        self._processor = BatchSpanProcessor(
            exporter or OTLPSpanExporter(endpoint, headers=dict(headers or {}), timeout=TIMEOUT_SECONDS),
            max_queue_size=MOST_WAITING,
        )

    def emit(self, spans: Iterable[Span]) -> None:
        """Queue them; the processor drops those that are not sampled, and the oldest when too many wait."""
        try:
            for span in spans:
                self._processor.on_end(self._readable(span))
        except Exception as error:  # noqa: BLE001 - no run fails because of what is told of it
            logger.warning("spans were not told: %r", error)

    def flush(self) -> None:
        """Wait for what is queued, two seconds at most; not at all where no collector is there."""
        if self._endpoint is not None and not _answers(self._endpoint):
            logger.info("no telemetry collector is at %s", without_login(self._endpoint)[0])
            return
        thread = threading.Thread(target=self._flush, name="ratchet-telemetry", daemon=True)
        thread.start()
        thread.join(FLUSH_SECONDS)
        if thread.is_alive():
            logger.warning("the telemetry collector did not take everything within %g s", FLUSH_SECONDS)

    def _flush(self) -> None:
        try:
            self._processor.force_flush()
        except Exception as error:  # noqa: BLE001 - no run fails or waits because nobody listens
            logger.warning("spans were not told: %r", error)

    def _readable(self, span: Span) -> ReadableSpan:
        parent = None if span.parent is None else TraceContext(span.context.trace_id, span.parent)
        return ReadableSpan(
            name=span.name,
            context=_context(span.context, is_remote=False),
            parent=None if parent is None else _context(parent, is_remote=True),
            resource=self._resource,
            attributes=dict(span.attributes),
            events=[Event(each.name, dict(each.attributes), _nanoseconds(each.at)) for each in span.moments],
            links=[Link(_context(link, is_remote=True)) for link in span.links],
            kind=KINDS[span.kind],
            status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=_nanoseconds(span.start),
            end_time=_nanoseconds(max(span.start, span.end)),
            instrumentation_scope=SCOPE,
        )


def _answers(endpoint: str) -> bool:
    """Whether somebody accepts a connection there. The exporter would try again and again until its time is over."""
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "localhost", port), PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _context(named: TraceContext, *, is_remote: bool) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if named.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(named.trace_id, 16), int(named.span_id, 16), is_remote, flags)


def _nanoseconds(at: datetime) -> int:
    return round(at.timestamp() * 1e6) * 1_000
