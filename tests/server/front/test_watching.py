"""What an operator sees of a server that answers calls."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kshot.bundle.signals.json_log import JsonFormatter
from kshot.server.config import ServerConfig
from kshot.server.event_log import LOGGER
from kshot.v1 import adaptation_pb2 as wire

Make = Callable[..., Any]
TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADER = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)


@pytest.fixture(scope="module")
def watched(
    make_config: Callable[..., ServerConfig],
    run_in_thread: Callable[[ServerConfig], AbstractContextManager[Any]],
) -> Iterator[Any]:
    """A server that answers scrapes."""
    with run_in_thread(make_config(metrics="127.0.0.1:0")) as running:
        yield running


def scrape(server: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:  # noqa: ANN401 -- a running server
    with urlopen(f"http://{server.ready['metrics']}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_has_what_the_calls_did(
    watched: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    queries: Make,
) -> None:
    response = watched.stub.Adapt(adapt_request(), timeout=30)
    adapted = response.adapted_model.id
    request = wire.PredictRequest(adapted_model=adapted, queries=queries())
    watched.stub.Predict(request, timeout=30)
    with pytest.raises(grpc.RpcError):
        watched.stub.GetAdaptedModel(wire.GetAdaptedModelRequest(adapted_model="x"), timeout=30)

    found = scrape(watched)

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    for method in ("Adapt", "Predict"):
        assert value("kshot_calls_total", method=method, code="OK", reason="") == 1
        assert value("kshot_call_seconds_count", method=method, code="OK") == 1
        assert value("kshot_call_seconds_sum", method=method, code="OK") > 0
    refused = {"code": "INVALID_ARGUMENT", "reason": "INVALID_REQUEST"}
    assert value("kshot_calls_total", method="GetAdaptedModel", **refused) == 1
    assert value("kshot_call_phase_seconds_sum", method="Adapt", phase="compute") >= 0.001
    assert value("kshot_call_phase_seconds_sum", method="Adapt", phase="store") > 0
    assert value("kshot_tenant_adapt_seconds_total", tenant="") == pytest.approx(0.001)
    assert value("kshot_engines_ready") == value("kshot_engine_processes") == 1
    assert value("kshot_engine_tasks") == 0
    assert value("kshot_stored_models") == value("kshot_cached_models") == 1
    assert value("kshot_stored_bytes") == response.adapted_model.size_bytes
    assert value("kshot_cached_bytes") > 0
    assert value("kshot_store_sweeps_total") == 1
    assert value("process_resident_memory_bytes") > 2**20
    assert not any(adapted in text for _, labels in found for _, text in labels)


def test_a_log_line_names_the_callers_trace(
    watched: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
) -> None:
    stream = io.StringIO()
    handler, level = logging.StreamHandler(stream), LOGGER.level
    handler.setFormatter(JsonFormatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        watched.stub.Adapt(adapt_request(), timeout=30, metadata=HEADER)
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)

    (line,) = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert line["trace_id"] == TRACE
    assert "tenant" not in line
