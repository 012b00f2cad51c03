"""Whether anybody listens to spans, by OpenTelemetry's own variables; and the span that surrounds this moment."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from urllib.parse import unquote

from ratchet.domain.tracing import TraceContext
from ratchet.ports.telemetry import NoTelemetry, Telemetry

logger = logging.getLogger(__name__)
HTTP = "http/protobuf"


def telemetry_of(variables: Mapping[str, str]) -> Telemetry:
    """Where spans go by these variables (``OTEL_…``): nowhere unless an OTLP endpoint is named.

    Those that are heeded: ``OTEL_EXPORTER_OTLP_[TRACES_]ENDPOINT``, ``…_HEADERS``, ``…_PROTOCOL`` (HTTP alone),
    ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_TRACES_EXPORTER`` and ``OTEL_SDK_DISABLED``.
    """
    endpoint = variables.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    if not endpoint and (base := variables.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")):
        endpoint = f"{base.rstrip('/')}/v1/traces"
    off = variables.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not endpoint or off or variables.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return NoTelemetry()
    protocol = _either(variables, "PROTOCOL") or HTTP
    if protocol != HTTP:
        logger.warning("no spans are told: the OTLP protocol is %r, and Ratchet speaks %s", protocol, HTTP)
        return NoTelemetry()
    from ratchet.adapters.telemetry_otlp import OtlpTelemetry  # noqa: PLC0415 - only where somebody listens

    resource = _pairs(variables.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    if name := variables.get("OTEL_SERVICE_NAME"):
        resource["service.name"] = name
    return OtlpTelemetry(endpoint, headers=_pairs(_either(variables, "HEADERS")), resource=resource)


def surrounding() -> TraceContext | None:
    """The OpenTelemetry span that this code runs in, if whoever runs it is traced; nothing is imported to find out."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", sampled=context.trace_flags.sampled)


def _either(variables: Mapping[str, str], name: str) -> str:
    return variables.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or variables.get(f"OTEL_EXPORTER_OTLP_{name}") or ""


def _pairs(text: str) -> dict[str, str]:
    """``key=value,key=value``, percent-encoded."""
    parts = (part.partition("=") for part in text.split(","))
    return {unquote(name).strip(): unquote(value).strip() for name, found, value in parts if found}
