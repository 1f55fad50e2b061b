"""A revision adapts from the initialization to the changed support set, as Adapt would to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]
Numbers = np.ndarray[Any, Any]


def sent(array: Numbers) -> wire.Images:
    kind = "FP32" if array.dtype == np.float32 else "UINT8"
    tensor = wire.Tensor(datatype=kind, shape=array.shape, data=array.tobytes())
    return wire.Images(tensor=tensor)


def numbers(images: wire.Images) -> Numbers:
    return np.frombuffer(images.tensor.data, "<f4").reshape(images.tensor.shape)


def test_a_revision_is_an_adaptation_to_the_result(
    stub: AdaptationServiceStub, adapt_request: Make, queries: Make
) -> None:
    """Byte for byte: weights, statistics, digests and answers. The old model stays."""
    first = adapt_request(seed=5, deterministic=True)
    old = stub.Adapt(first).adapted_model
    pixels = np.random.default_rng(9).integers(0, 256, (2, 4, 4), dtype=np.uint8)
    request = wire.ReviseAdaptedModelRequest(
        adapted_model=old.id,
        removed_indices=[1],
        relabellings=[wire.Relabelling(index=3, class_name="class 0")],
        added=wire.SupportSet(
            images=sent(pixels), class_indices=[1, 0], class_names=["new", "class 2"]
        ),
    )
    images = numbers(first.support_set.images)
    table = (np.arange(256) / 255).astype(np.float32)
    result = wire.SupportSet(
        images=sent(np.concatenate([images[[0, 2, 3, 4, 5]], table[pixels][:, None]])),
        class_indices=[0, 1, 0, 2, 2, 2, 3],
        class_names=["class 0", "class 1", "class 2", "new"],
    )

    revised = stub.ReviseAdaptedModel(request)

    wanted = stub.Adapt(wire.AdaptRequest(model="tiny", support_set=result, options=first.options))
    model, other = revised.adapted_model, wanted.adapted_model
    assert model.id not in (old.id, other.id)
    assert list(model.class_names) == ["class 0", "class 1", "class 2", "new"]
    assert model.weights_digest == other.weights_digest
    assert model.adaptation_digest == other.adaptation_digest
    assert model.options == other.options
    assert revised.report == wanted.report
    assert (model.parent, other.parent) == (old.id, "")
    assert (model.support_count, model.support_kept) == (7, True)
    answers = [
        stub.Predict(wire.PredictRequest(adapted_model=each, queries=queries(), batch_norm_mode=2))
        for each in (model.id, other.id)
    ]
    assert answers[0].probabilities == answers[1].probabilities
    assert stub.GetAdaptedModel(wire.GetAdaptedModelRequest(adapted_model=old.id))


def test_a_revision_may_change_options(stub: AdaptationServiceStub, adapt_request: Make) -> None:
    """Others hold; weights alone cannot be revised again."""
    old = stub.Adapt(adapt_request(seed=5, step_count=4)).adapted_model
    options = wire.AdaptOptions(seed=6, retain_support=False)

    revised = stub.ReviseAdaptedModel(
        wire.ReviseAdaptedModelRequest(adapted_model=old.id, options=options)
    ).adapted_model
    with pytest.raises(grpc.RpcError, match="so it cannot be revised; adapt again with retain"):
        stub.ReviseAdaptedModel(wire.ReviseAdaptedModelRequest(adapted_model=revised.id))

    assert (revised.options.seed, revised.options.step_count) == (6, 4)
    assert revised.class_names == old.class_names


def test_what_does_not_fit_is_listed(
    stub: AdaptationServiceStub, adapt_request: Make, refusal: Make
) -> None:
    old = stub.Adapt(adapt_request()).adapted_model
    changed = refusal(
        lambda: stub.ReviseAdaptedModel(
            wire.ReviseAdaptedModelRequest(adapted_model=old.id, etag="another")
        )
    )
    assert (changed.code, changed.reason) == ("ABORTED", "ETAG_MISMATCH")
    request = wire.ReviseAdaptedModelRequest(
        adapted_model=old.id,
        etag=old.etag,
        removed_indices=[6],
        added=wire.SupportSet(
            images=sent(np.zeros((1, 1, 5, 5), np.float32)), class_indices=[0], class_names=["x"]
        ),
        options=wire.AdaptOptions(learning_rate=-1.0),
    )

    refused = refusal(lambda: stub.ReviseAdaptedModel(request))
    nobody = refusal(
        lambda: stub.ReviseAdaptedModel(wire.ReviseAdaptedModelRequest(adapted_model="am-x"))
    )

    assert set(refused.violations) == {
        "removed_indices[0]",
        "added.images.tensor",
        "options.learning_rate",
    }
    assert "adapted_model" in nobody.violations
