"""The requests that a bench sends."""

from __future__ import annotations

import pytest

from kshot.bench.serve.requests import (
    Workload,
    adapt_requests,
    noise,
    predict_requests,
)
from kshot.client import ModelCapabilities
from kshot.client.encoding import encode_images
from kshot.v1 import adaptation_pb2 as wire


def test_adapt_requests_differ_in_the_seed(model: ModelCapabilities) -> None:
    next_request = adapt_requests(Workload(step_count=7), model)

    read = [wire.AdaptRequest.FromString(next_request()) for _ in range(3)]

    assert [item.options.seed for item in read] == [1, 2, 3]
    for item in read:
        item.options.seed = 99
    assert read == [read[0]] * 3


def test_adapted_models_take_turns() -> None:
    queries = noise((1, 8, 9), 2)
    next_request = predict_requests(["a", "b"], queries)

    read = [wire.PredictRequest.FromString(next_request()) for _ in range(3)]

    assert [item.adapted_model for item in read] == ["a", "b", "a"]
    assert all(item.queries == encode_images(queries) for item in read)


@pytest.mark.parametrize(
    ("shape", "wanted", "datatype"),
    [
        ((1, 28, 20), (4, 28, 20), "UINT8"),
        ((3, 8, 9), (4, 8, 9, 3), "UINT8"),
        ((2, 8, 9), (4, 2, 8, 9), "FP32"),
    ],
)
def test_images_have_the_form_that_clients_send(
    shape: tuple[int, ...], wanted: tuple[int, ...], datatype: str
) -> None:
    request = predict_requests(["a"], noise(shape, 4))()

    tensor = wire.PredictRequest.FromString(request).queries.tensor
    assert tuple(tensor.shape) == wanted
    assert tensor.datatype == datatype
    assert noise(shape, 4).shape == wanted


def test_each_class_has_its_examples(model: ModelCapabilities) -> None:
    next_request = adapt_requests(Workload(way=3, shot=2, step_count=7), model)

    request = wire.AdaptRequest.FromString(next_request())

    assert request.model == model.model
    assert list(request.support_set.class_indices) == [0, 1, 2, 0, 1, 2]
    assert len(request.support_set.class_names) == 3
    assert request.options.step_count == 7
    assert request.options.ttl.seconds == 3600
