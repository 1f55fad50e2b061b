"""What callers see of the store: restarts, its limits, expiry, damage."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from kshot.v1 import adaptation_pb2 as wire

Make = Callable[..., Any]
StartServer = Callable[..., AbstractContextManager[Any]]
Refuse = Callable[[Callable[[], object]], Any]


def test_adapted_models_are_there_after_a_restart(
    start_server: StartServer,
    adapt_request: Make,
    queries: Make,
    tmp_path: Path,
) -> None:
    with start_server(store=tmp_path / "s") as server:
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model
        request = wire.PredictRequest(adapted_model=model.id, queries=queries())
        before = server.stub.Predict(request, timeout=30)
    with start_server(store=tmp_path / "s") as server:
        after = server.stub.Predict(request, timeout=30)
        got = server.stub.GetAdaptedModel(
            wire.GetAdaptedModelRequest(adapted_model=model.id), timeout=30
        )

    assert after.probabilities == before.probabilities
    assert got.adapted_model == model


def test_a_full_store_says_so(
    start_server: StartServer, adapt_request: Make, refusal: Refuse
) -> None:
    with start_server(max_adapted_models=1) as server:
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
        full = refusal(lambda: server.stub.Adapt(adapt_request(), timeout=30))
        server.stub.DeleteAdaptedModel(
            wire.DeleteAdaptedModelRequest(adapted_model=model), timeout=30
        )
        again = server.stub.Adapt(adapt_request(), timeout=30)

    assert (full.code, full.reason) == ("RESOURCE_EXHAUSTED", "STORE_FULL")
    assert again.adapted_model.id


def test_an_expired_model_says_so(
    start_server: StartServer, adapt_request: Make, queries: Make, refusal: Refuse
) -> None:
    request = adapt_request()
    request.options.ttl.FromNanoseconds(1000)
    with start_server() as server:
        model = server.stub.Adapt(request, timeout=30).adapted_model.id
        error = refusal(
            lambda: server.stub.Predict(
                wire.PredictRequest(adapted_model=model, queries=queries()), timeout=30
            )
        )

    assert (error.code, error.reason) == ("NOT_FOUND", "ADAPTED_MODEL_EXPIRED")


def test_a_damaged_file_says_so(
    start_server: StartServer, adapt_request: Make, queries: Make, tmp_path: Path, refusal: Refuse
) -> None:
    with start_server(store=tmp_path / "s", cache_bytes=0) as server:
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
        other = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
        (file,) = (tmp_path / "s").rglob(f"{model}*")
        os.truncate(file, 10)
        damaged = wire.PredictRequest(adapted_model=model, queries=queries())
        sound = wire.PredictRequest(adapted_model=other, queries=queries())

        error = refusal(lambda: server.stub.Predict(damaged, timeout=30))

        assert (error.code, error.reason) == ("DATA_LOSS", "ADAPTED_MODEL_DAMAGED")
        assert str(tmp_path) not in error.text
        assert server.stub.Predict(sound, timeout=30).predictions
