"""Traces of calls through front and engine by OpenTelemetry, which is imported when asked for."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span
    from opentelemetry.trace import Tracer as OpenTelemetryTracer

TRACEPARENT = "traceparent"
_HEADER = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_HEADER_LENGTH = 55
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SERVICE = "kshot"
_FLUSH_SECONDS = 2.0
# Of metadata this many entries are looked at, so that long ones cost nothing.
_MOST_ENTRIES = 32

Attributes = Mapping[str, str | int | float | bool]


def find_traceparent(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return the W3C header of a caller's trace, empty if there is none that is well formed."""
    for count, (key, value) in enumerate(metadata or ()):
        if key == TRACEPARENT and isinstance(value, str):
            # Later versions may append fields.
            header, rest = value[:_HEADER_LENGTH], value[_HEADER_LENGTH:]
            whole = not rest or (rest.startswith("-") and not header.startswith("00"))
            return f"00{header[2:]}" if whole and _HEADER.fullmatch(header) else ""
        if count >= _MOST_ENTRIES:
            break
    return ""


def tracing_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether OpenTelemetry's own variables ask for traces by OTLP."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    named = any(environment.get(name) for name in _ENDPOINTS)
    return exporter == "otlp" or (exporter == "" and named)


@dataclass(frozen=True)
class Tracer:
    """Starts spans; any thread may use it."""

    provider: TracerProvider
    exporter: SpanExporter | None = None

    def start(
        self,
        name: str,
        traceparent: str = "",
        attributes: Attributes | None = None,
        *,
        server: bool = False,
        start_ns: int | None = None,
    ) -> Span:
        """Start a span that continues the trace of a header, or a new one without it."""
        from opentelemetry.trace import SpanKind

        return self._scope.start_span(
            name,
            context=_parent(traceparent),
            kind=SpanKind.SERVER if server else SpanKind.INTERNAL,
            attributes=dict(attributes or {}),
            start_time=start_ns,
        )

    @cached_property
    def _scope(self) -> OpenTelemetryTracer:
        return self.provider.get_tracer(_SERVICE)

    def close(self) -> None:
        """Send what is left, for two seconds at most, and end; blocks."""
        flush = threading.Thread(target=self.provider.force_flush, daemon=True)
        flush.start()
        flush.join(_FLUSH_SECONDS)
        if self.exporter is not None:
            self.exporter.shutdown()  # else it would try again for long
        self.provider.shutdown()


def traceparent_of(span: Span) -> str:
    """Return the header by which other work belongs to a span."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def start_tracing(process: str, version: str) -> Tracer:
    """Send spans by OTLP over gRPC, as `OTEL_…` says; raise `ImportError` without the extra."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes: dict[str, Any] = {"service.version": version, "kshot.process": process}
    if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        attributes["service.name"] = os.environ.get("OTEL_SERVICE_NAME") or _SERVICE
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracer(provider, exporter)


def _parent(traceparent: str) -> Any:  # noqa: ANN401 -- OpenTelemetry's context
    """Return a context with the span that a header names as the current one."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if not traceparent:
        return Context()
    _, trace_id, span_id, flags = traceparent.split("-")
    parent = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
    return set_span_in_context(NonRecordingSpan(parent), Context())
