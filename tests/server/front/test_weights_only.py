"""Without `retain_support` nothing of a support set is kept, and what needs it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]


def test_weights_alone_answer_alike(
    stub: AdaptationServiceStub,
    adapt_request: Make,
    queries: Make,
    refusal: Make,
) -> None:
    """In all modes but the one that runs the support set beside each query."""
    whole, weights = (
        stub.Adapt(adapt_request(retain_support=kept)).adapted_model for kept in (True, False)
    )
    modes = wire.BatchNormMode
    for mode in (modes.BATCH_NORM_MODE_TRANSDUCTIVE, modes.BATCH_NORM_MODE_SUPPORT):
        first, second = (
            stub.Predict(
                wire.PredictRequest(adapted_model=model.id, queries=queries(), batch_norm_mode=mode)
            )
            for model in (whole, weights)
        )
        assert first.probabilities == second.probabilities
    beside = modes.BATCH_NORM_MODE_SUPPORT_AND_QUERY
    asked = wire.PredictRequest(adapted_model=weights.id, queries=queries(), batch_norm_mode=beside)

    refused = refusal(lambda: stub.Predict(asked))
    not_exported = refusal(
        lambda: list(
            stub.ExportAdaptedModel(
                wire.ExportAdaptedModelRequest(adapted_model=weights.id, batch_norm_mode=beside)
            )
        )
    )

    assert weights.weights_digest == whole.weights_digest
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "SUPPORT_NOT_KEPT")
    assert "nothing answers in mode support_and_query (ask in another)" in refused.text
    assert "adapt again with retain_support" in refused.text
    assert not_exported.reason == "SUPPORT_NOT_KEPT"
    assert stub.ExportAdaptedModel(wire.ExportAdaptedModelRequest(adapted_model=weights.id))
    assert weights.options.retain_support is False
    assert whole.size_bytes - weights.size_bytes > 6 * 16 * 4


def test_nothing_is_kept_of_a_call_that_predicts_at_once(
    stub: AdaptationServiceStub, adapt_request: Make, queries: Make
) -> None:
    """So `retain_support` does not matter there, in any mode."""
    beside = wire.BatchNormMode.BATCH_NORM_MODE_SUPPORT_AND_QUERY
    request = adapt_request(retain_support=False, batch_norm_mode=beside)

    answer = stub.AdaptAndPredict(
        wire.AdaptAndPredictRequest(
            model="tiny",
            support_set=request.support_set,
            options=request.options,
            queries=queries(),
        )
    )

    assert len(answer.predictions) == 4
    assert np.isfinite(np.frombuffer(answer.probabilities.data, "<f4")).all()
