"""A caller that leaves ends its work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc
import pytest

from kshot.server.call_context import current_call
from kshot.server.predict import predictor
from kshot.v1 import adaptation_pb2 as wire
from tests.patience import with_more_time

Make = Callable[..., Any]
StartServer = Callable[..., AbstractContextManager[Any]]


@pytest.mark.parametrize("leave", ["cancel", "deadline"])
def test_a_caller_that_leaves_stops_its_prediction(
    start_server: StartServer,
    adapt_request: Make,
    queries: Make,
    monkeypatch: pytest.MonkeyPatch,
    leave: str,
) -> None:
    started = threading.Event()
    runs = []

    def run(*_arguments: object) -> None:
        runs.append(1)
        started.set()
        while not current_call().ended:  # pytest's time limit ends this
            pass

    def outlast(seconds: float) -> None:
        with pytest.raises(grpc.RpcError):
            server.stub.Predict(request, timeout=seconds)
        assert started.is_set()

    with start_server() as server:
        model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
        request = wire.PredictRequest(adapted_model=model, queries=queries(4))
        with monkeypatch.context() as patch:
            patch.setattr(predictor, "MAX_RUN_IMAGES", 1)
            patch.setattr(predictor, "_run", run)
            if leave == "cancel":
                call = server.stub.Predict.future(request, timeout=300)
                started.wait()
                call.cancel()
                with pytest.raises(grpc.FutureCancelledError):
                    call.result()
            else:
                with_more_time(outlast, 1)
            server.stop()
            server.join()

    assert runs == [1]
