"""Many calls to few adapted models: joined, from memory and sessions of their own, as if alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import grpc
import numpy as np
import pytest

from kshot.bundle import Bundle
from kshot.v1 import adaptation_pb2 as wire

Make = Callable[..., Any]
StartServer = Callable[..., AbstractContextManager[Any]]

MODELS = 4
CALLERS = 12
TURNS = 40


def probabilities(response: wire.PredictResponse) -> np.ndarray[Any, Any]:
    tensor = response.probabilities
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


@pytest.mark.parametrize(
    ("max_hot_sessions", "cache_bytes", "name"),
    [
        *((sessions, size, "tiny") for sessions in (0, 2, 64) for size in (3000, 2**28)),
        (2, 3000, "encoded"),
    ],
)
def test_callers_of_shared_models_get_own_answers(
    start_server: StartServer,
    support_set: Make,
    queries: Make,
    encoder_bundle: Bundle,
    tiny_bundle: Bundle,
    max_hot_sessions: int,
    cache_bytes: int,
    name: str,
) -> None:
    """Whatever is joined, cached or hot: each gets what it would get alone.

    3,000 bytes hold two models. Images of the encoder's size are the others', pixel by pixel.
    """
    bundle = encoder_bundle if name == "encoded" else tiny_bundle

    def count(caller: int, turn: int) -> int:
        return 1 + (caller * 7 + turn) % 20  # small ones join, larger ones do not

    def sized(images: wire.Images) -> wire.Images:
        if name == "tiny":
            return images
        array = np.frombuffer(images.tensor.data, "<f4").reshape(images.tensor.shape)
        array = array.repeat(2, axis=2).repeat(2, axis=3)
        tensor = wire.Tensor(datatype="FP32", shape=array.shape, data=array.tobytes())
        return wire.Images(tensor=tensor)

    settings = {"max_hot_sessions": max_hot_sessions, "cache_bytes": cache_bytes}
    with (
        start_server(bundles=(bundle.path,), **settings) as server,
        ThreadPoolExecutor(CALLERS) as pool,
    ):

        def adapt(seed: int) -> wire.AdaptedModel:
            support = support_set(2 + seed, 2, seed=seed)
            support.images.CopyFrom(sized(support.images))
            request = wire.AdaptRequest(model=name, support_set=support)
            adapted: wire.AdaptedModel = server.stub.Adapt(request, timeout=60).adapted_model
            return adapted

        models = [adapt(seed) for seed in range(MODELS)]

        def predict(model: int, caller: int, turn: int) -> wire.PredictResponse:
            images = sized(queries(count(caller, turn), seed=caller))
            mode = wire.BATCH_NORM_MODE_SUPPORT if turn % 5 else wire.BATCH_NORM_MODE_TRANSDUCTIVE
            request = wire.PredictRequest(
                adapted_model=models[model].id, queries=images, batch_norm_mode=mode
            )
            response: wire.PredictResponse = server.stub.Predict(request, timeout=60)
            return response

        def call(caller: int) -> list[tuple[int, int, wire.PredictResponse]]:
            return [
                ((caller + turn) % MODELS, turn, predict((caller + turn) % MODELS, caller, turn))
                for turn in range(TURNS)
            ]

        together = list(pool.map(call, range(CALLERS)))

        for caller, answers in enumerate(together):
            for model, turn, answer in answers[::7]:
                alone = predict(model, caller, turn)
                assert answer.adapted_model == models[model].id
                assert answer.weights_digest == models[model].weights_digest
                assert answer.class_names == alone.class_names
                np.testing.assert_allclose(
                    probabilities(answer), probabilities(alone), atol=1e-5, rtol=0
                )
                assert [each.class_index for each in answer.predictions] == [
                    each.class_index for each in alone.predictions
                ]


def test_a_bad_request_among_good_ones_fails_alone(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    queries: Make,
) -> None:
    model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    good = wire.PredictRequest(adapted_model=model, queries=queries(2))
    bad = wire.PredictRequest(adapted_model=model, queries=queries(2))
    bad.queries.tensor.shape[0] = 3
    wanted = server.stub.Predict(good, timeout=30)

    calls = [server.stub.Predict.future(bad if i % 4 == 1 else good, timeout=30) for i in range(40)]

    for index, call in enumerate(calls):
        if index % 4 == 1:
            assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
        else:
            np.testing.assert_allclose(
                probabilities(call.result()), probabilities(wanted), atol=1e-5, rtol=0
            )


def test_a_busy_model_can_be_deleted(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    queries: Make,
) -> None:
    model = server.stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    request = wire.PredictRequest(adapted_model=model, queries=queries(25))
    for _ in range(4):
        server.stub.Predict(request, timeout=30)
    server.stub.DeleteAdaptedModel(wire.DeleteAdaptedModelRequest(adapted_model=model), timeout=30)

    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Predict(request, timeout=30)

    error: Any = caught.value
    assert error.code() is grpc.StatusCode.NOT_FOUND
