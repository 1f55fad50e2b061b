from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kshot.bundle.signals.tracing import Tracer, find_traceparent, traceparent_of, tracing_wanted

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        pytest.param(HEADER, HEADER, id="well-formed"),
        pytest.param(f"01-{TRACE}-{SPAN}-01-more", HEADER, id="later-version"),
        pytest.param(f"{HEADER}-more", "", id="too-long"),
        pytest.param(f"ff-{TRACE}-{SPAN}-01", "", id="no-version"),
        pytest.param(f"00-{'0' * 32}-{SPAN}-01", "", id="no-trace"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", "", id="no-span"),
        pytest.param(HEADER.upper(), "", id="upper-case"),
        pytest.param(f"{HEADER[:-1]}\n", "", id="control"),
        pytest.param("", "", id="empty"),
    ],
)
def test_only_well_formed_headers_are_continued(sent: str, found: str) -> None:
    assert find_traceparent([("user-agent", "x"), ("traceparent", sent)]) == found


def test_without_a_header_there_is_no_trace() -> None:
    assert find_traceparent(None) == find_traceparent([("x", b"y")]) == ""
    assert find_traceparent([("x", "y")] * 100 + [("traceparent", HEADER)]) == ""


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
    ],
)
def test_the_standard_variables_ask_for_traces(environment: dict[str, str], wanted: bool) -> None:
    assert tracing_wanted(environment) is wanted


def test_a_span_continues_the_trace_of_its_header() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = Tracer(provider)
    span = tracer.start("Adapt", HEADER, {"rpc.system": "grpc"}, server=True)
    child = tracer.start("compute", traceparent_of(span))
    child.end()
    span.end()

    inner, outer = exporter.get_finished_spans()
    assert outer.parent is not None and inner.parent is not None
    assert f"{outer.context.trace_id:032x}" == f"{inner.context.trace_id:032x}" == TRACE
    assert f"{outer.parent.span_id:016x}" == SPAN
    assert inner.parent.span_id == outer.context.span_id


def test_nothing_is_imported_while_no_one_traces() -> None:
    lines = "import sys, kshot.bundle.signals.tracing, kshot.server.watch.opening\n"
    lines += "print([name for name in sys.modules if 'opentelemetry' in name or 'prom' in name])"

    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
