from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kshot.bundle.signals.tracing import Tracer
from kshot.engine.models import LoadedModel
from kshot.engine.task_span import task_span
from kshot.engine.wire import decode_task
from kshot.internal.v1 import engine_pb2

TRACE, CALL = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_task_is_a_span_below_its_call(
    model: LoadedModel, request_message: engine_pb2.AdaptRequest
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    task = decode_task(request_message)
    metadata = (("traceparent", f"00-{TRACE}-{CALL}-01"),)

    with (
        pytest.raises(ValueError, match="no room"),
        task_span(Tracer(provider), model, task, metadata),
    ):
        raise ValueError("no room")

    (span,) = exporter.get_finished_spans()
    assert span.parent is not None and span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == CALL
    assert span.attributes is not None
    assert span.attributes["kshot.way"] == task.way


def test_without_a_tracer_there_is_no_span(
    model: LoadedModel, request_message: engine_pb2.AdaptRequest
) -> None:
    with task_span(None, model, decode_task(request_message), ()) as note:
        assert note is not None
