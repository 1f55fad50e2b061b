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
import trustme
from prometheus_client.parser import text_string_to_metric_families

from kshot.bundle.signals.json_log import JsonFormatter
from kshot.server.config import ServerConfig
from kshot.server.event_log import LOGGER
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1 import admin_pb2 as admin
from kshot.v1.admin_pb2_grpc import AdminServiceStub
from tests.server.front.secured import Secured, bearer

Make = Callable[..., Any]
Metadata = tuple[tuple[str, str], ...]
TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADER = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Secured:
    """Keys of tenants."""
    return Secured.create(tmp_path_factory.mktemp("secured"), trustme.CA())


@pytest.fixture(scope="module")
def watched(
    secured: Secured,
    pipes: object,  # noqa: ARG001 -- the fake engine needs it
    make_config: Callable[..., ServerConfig],
    run_in_thread: Callable[[ServerConfig], AbstractContextManager[Any]],
) -> Iterator[Any]:
    """A server with keys that answers scrapes."""
    settings = secured.settings("plain") | {"metrics": "127.0.0.1:0"}
    with run_in_thread(make_config(**settings)) as running:
        yield running


@pytest.fixture(scope="module")
def key(secured: Secured) -> Metadata:
    """The metadata of a tenant's calls."""
    return bearer(secured.keys["right"])


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
    key: Metadata,
    secured: Secured,
) -> None:
    response = watched.stub.Adapt(adapt_request(), timeout=30, metadata=key)
    adapted = response.adapted_model.id
    request = wire.PredictRequest(adapted_model=adapted, queries=queries())
    watched.stub.Predict(request, timeout=30, metadata=key)
    with pytest.raises(grpc.RpcError):
        watched.stub.GetAdaptedModel(
            wire.GetAdaptedModelRequest(adapted_model="x"), timeout=30, metadata=key
        )

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
    assert value("kshot_tenant_adapt_seconds_total", tenant="acme") == pytest.approx(0.001)
    assert value("kshot_tenant_calls_total", tenant="acme") == 3
    assert value("kshot_tenant_models", tenant="acme") == 1
    assert value("kshot_engines_ready") == value("kshot_engine_processes") == 1
    assert value("kshot_engine_tasks") == 0
    assert value("kshot_stored_models") == value("kshot_cached_models") == 1
    assert value("kshot_stored_bytes") == response.adapted_model.size_bytes
    assert value("kshot_cached_bytes") > 0
    assert value("kshot_store_sweeps_total") == 1
    assert value("process_resident_memory_bytes") > 2**20
    assert not any(adapted in text for _, labels in found for _, text in labels)

    statistics = AdminServiceStub(watched.channel).GetStatistics(
        admin.GetStatisticsRequest(), timeout=30, metadata=bearer(secured.keys["admin"])
    )
    methods = {each.method: each for each in statistics.methods}
    assert {name: (each.code, each.call_count) for name, each in methods.items()} == {
        "Adapt": ("OK", 1),
        "Predict": ("OK", 1),
        "GetAdaptedModel": ("INVALID_ARGUMENT", 1),
    }
    assert methods["Adapt"].compute.ToTimedelta() <= methods["Adapt"].total.ToTimedelta()
    (tenant,) = statistics.tenants
    assert (tenant.tenant, tenant.call_count, tenant.adapted_model_count) == ("acme", 3, 1)
    assert tenant.adapt_seconds == pytest.approx(0.001)
    assert tenant.adapted_model_bytes == statistics.adapted_model_bytes > 0
    assert statistics.adapted_model_count == statistics.cached_model_count == 1
    assert statistics.engine_count == 1
    assert statistics.adapting_count == statistics.predicting_count == 0
    assert statistics.start_time.ToSeconds() > 0


def test_a_log_line_names_the_callers_trace(
    watched: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    key: Metadata,
) -> None:
    stream = io.StringIO()
    handler, level = logging.StreamHandler(stream), LOGGER.level
    handler.setFormatter(JsonFormatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        watched.stub.Adapt(adapt_request(), timeout=30, metadata=(*key, *HEADER))
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)

    (line,) = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert line["trace_id"] == TRACE
    assert line["tenant"] == "acme"
