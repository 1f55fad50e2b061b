from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from kshot.bundle.signals.tracing import Tracer
from kshot.server.call_context import Call
from kshot.server.event_log import log_call
from kshot.server.watch.call_trace import CallTraces
from kshot.server.watch.observer import CallObserver

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVICE = "kshot.v1.AdaptationService"
MODEL = "am-" + "a" * 26


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def observer(exporter: InMemorySpanExporter) -> CallObserver:
    """What traces calls into the exporter."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return CallObserver(traces=CallTraces(Tracer(provider)))


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_call_is_a_span_with_its_phases(
    observer: CallObserver, exporter: InMemorySpanExporter
) -> None:
    call = Call("Adapt", tenant="blue", traceparent=f"00-{TRACE}-{CALLER}-01")
    observer.begin(call, SERVICE)
    call.model, call.adapted_model = "drawings", MODEL
    call.add("compute", 0.25)
    log_call(call, "OK")

    found = spans(exporter)
    whole, part = found[f"{SERVICE}/Adapt"], found["compute"]
    assert whole.parent is not None and part.parent is not None
    assert whole.context is not None
    assert f"{whole.parent.span_id:016x}" == CALLER
    assert part.parent.span_id == whole.context.span_id
    assert call.traceparent == f"00-{TRACE}-{whole.context.span_id:016x}-01"
    assert call.trace_id == TRACE
    assert dict(whole.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": "Adapt",
        "rpc.grpc.status_code": 0,
        "kshot.request_id": call.request_id,
        "kshot.tenant": "blue",
        "kshot.model": "drawings",
        "kshot.adapted_model": "am-aaaaaaaa\u2026",
    }
    assert whole.start_time is not None and whole.end_time is not None
    assert part.start_time is not None and part.end_time is not None
    assert part.start_time >= whole.start_time
    assert part.end_time <= whole.end_time


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        ("INTERNAL", "INTERNAL", StatusCode.ERROR),
        ("UNAVAILABLE", "QUEUE_FULL", StatusCode.ERROR),
        ("NOT_FOUND", "ADAPTED_MODEL_NOT_FOUND", StatusCode.UNSET),
    ],
)
def test_a_callers_mistake_is_no_failure_of_the_server(
    observer: CallObserver,
    exporter: InMemorySpanExporter,
    code: str,
    reason: str,
    status: StatusCode,
) -> None:
    call = Call("Predict")
    observer.begin(call, SERVICE)
    log_call(call, code, reason)

    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is status
    assert span.attributes is not None
    assert span.attributes["kshot.reason"] == reason
    assert span.parent is None


def test_a_call_that_is_not_sampled_keeps_its_trace() -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    call = Call("Adapt", traceparent=f"00-{TRACE}-{CALLER}-01")
    CallObserver(traces=CallTraces(Tracer(provider))).begin(call, SERVICE)
    call.add("compute", 1.0)
    log_call(call, "OK")

    assert call.parts is None
    assert call.trace_id == TRACE
    assert call.traceparent.endswith("-00")
