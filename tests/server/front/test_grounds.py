"""Warnings travel with the answers: about the support set and about queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]


def dots(count: int, ground: int) -> wire.Images:
    """Return drawings of 8 x 8 pixels as they are sent."""
    pixels = np.full((count, 8, 8), ground, np.uint8)
    for index in range(count):
        column = 2 + 2 * (index % 2)
        pixels[index, 3:5, column : column + 2] = 255 - ground
    tensor = wire.Tensor(datatype="UINT8", shape=pixels.shape, data=pixels.tobytes())
    return wire.Images(tensor=tensor)


def test_queries_on_the_other_ground_bring_a_warning(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    request = adapt_request(way=2, shot=1)
    request.support_set.images.CopyFrom(dots(2, 255))
    adapted = stub.Adapt(request, timeout=30)

    def warnings(queries: wire.Images) -> list[str]:
        asked = wire.PredictRequest(adapted_model=adapted.adapted_model.id, queries=queries)
        return list(stub.Predict(asked, timeout=30).warnings)

    assert list(adapted.report.warnings) == warnings(dots(20, 255)) == []
    for count in (2, 20):  # small ones join others
        assert warnings(dots(count, 0))[0].startswith(f"queries: {count} of {count} have a dark")


def test_both_calls_in_one_warn_of_both(stub: AdaptationServiceStub, adapt_request: Make) -> None:
    support = adapt_request(way=2, shot=1).support_set
    support.images.CopyFrom(dots(2, 0))
    request = wire.AdaptAndPredictRequest(model="tiny", support_set=support, queries=dots(3, 255))
    inverted = stub.AdaptAndPredict(request, timeout=30)
    pixels = bytearray(support.images.tensor.data)
    pixels[:64] = bytes(255 - value for value in pixels[:64])
    request.support_set.images.tensor.data = bytes(pixels)
    mixed = stub.AdaptAndPredict(request, timeout=30)

    assert len(inverted.warnings) == 1
    assert list(inverted.report.warnings) == list(mixed.warnings) == []
    assert "1 examples have a light ground" in mixed.report.warnings[0]
