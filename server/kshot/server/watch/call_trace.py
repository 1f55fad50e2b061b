"""A span for each call, and one below it for each part of its phases."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from kshot.bundle.signals.tracing import Tracer, traceparent_of
from kshot.server.call_context import Call
from kshot.server.event_log import short_id

if TYPE_CHECKING:
    from opentelemetry.trace import Span

# Those that are the server's fault, as OpenTelemetry's conventions for gRPC have it.
_FAILED = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


Finish = Callable[[Call, str, str], None]


@dataclass(frozen=True)
class CallTraces:
    """Traces calls: no names of classes, no whole ids, no content."""

    tracer: Tracer

    def begin(self, call: Call, service: str) -> Finish:
        """Start the span of a call, in the caller's trace if there is one; return what ends it."""
        start_ns = time.time_ns()
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": call.method}
        span = self.tracer.start(
            f"{service}/{call.method}",
            call.traceparent,
            attributes,
            server=True,
            start_ns=start_ns,
        )
        call.traceparent = traceparent_of(span)
        call.parts = [] if span.is_recording() else None

        def end(call: Call, code: str, reason: str) -> None:
            self._add_parts(call, start_ns)
            for name, value in _details(call, reason).items():
                if value:
                    span.set_attribute(name, value)
            span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
            if code in _FAILED:
                _mark_failed(span, reason)
            span.end()

        return end

    def _add_parts(self, call: Call, start_ns: int) -> None:
        for phase, end, seconds in call.parts or ():
            end_ns = start_ns + int(1e9 * (end - call.started))
            begin_ns = max(start_ns, end_ns - int(1e9 * max(0.0, seconds)))
            self.tracer.start(phase, call.traceparent, start_ns=begin_ns).end(end_ns)


def _details(call: Call, reason: str) -> dict[str, str]:
    return {
        "kshot.request_id": call.request_id,
        "kshot.tenant": call.tenant,
        "kshot.model": call.model,
        "kshot.adapted_model": short_id(call.adapted_model),
        "kshot.reason": reason,
    }


def _mark_failed(span: Span, reason: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, reason))
