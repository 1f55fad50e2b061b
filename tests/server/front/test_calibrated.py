"""Every call answers with a bundle's temperatures: the same adaptation served with and without."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kshot.bundle import Bundle
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]
Numbers = np.ndarray[Any, Any]
StartServer = Callable[..., AbstractContextManager[Any]]

# As in `calibrated_bundle`, two examples per class: between those of one and of five.
PART = math.log(2, 5)
TEMPERATURES = {
    wire.BATCH_NORM_MODE_SUPPORT: 1.5 * 2**PART,
    wire.BATCH_NORM_MODE_SUPPORT_AND_QUERY: 0.25 * 3**PART,
    wire.BATCH_NORM_MODE_TRANSDUCTIVE: 1.0,
}


def numbers(tensor: wire.Tensor) -> Numbers:
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def softmax(logits: Numbers) -> Numbers:
    powers = np.exp(logits.astype(np.float64))
    result: Numbers = powers / powers.sum(axis=1, keepdims=True)
    return result


@pytest.fixture
def calibrated(
    start_server: StartServer, calibrated_bundle: Bundle
) -> Iterator[AdaptationServiceStub]:
    with start_server(bundles=(calibrated_bundle.path,)) as server:
        yield server.stub


def test_all_calls_answer_with_the_temperature(
    stub: AdaptationServiceStub,
    calibrated: AdaptationServiceStub,
    adapt_request: Make,
    queries: Make,
) -> None:
    """Large and small requests, one and many at once, kept and not, in every mode."""
    plain_id = stub.Adapt(adapt_request(), timeout=30).adapted_model.id
    adapted_id = calibrated.Adapt(adapt_request(), timeout=30).adapted_model.id
    for mode, temperature in TEMPERATURES.items():
        for count in (3, 40):
            images = queries(count)

            def request(adapted_model: str) -> wire.PredictRequest:
                return wire.PredictRequest(
                    adapted_model=adapted_model,
                    queries=images,  # noqa: B023 -- called in this turn
                    batch_norm_mode=mode,  # noqa: B023 -- as above
                    return_logits=True,
                    top_k=3,
                )

            plain = stub.Predict(request(plain_id), timeout=30)
            with ThreadPoolExecutor(8) as pool:  # joined where small, hot after a while
                asked = [request(adapted_id)] * 16
                answers = list(pool.map(lambda each: calibrated.Predict(each, timeout=30), asked))
            once = wire.AdaptAndPredictRequest(
                model="tiny",
                support_set=adapt_request().support_set,
                options=wire.AdaptOptions(batch_norm_mode=mode),
                queries=images,
                return_logits=True,
                top_k=3,
            )
            answers.append(calibrated.AdaptAndPredict(once, timeout=30))

            wanted = numbers(plain.logits) / temperature
            for answer in answers:
                np.testing.assert_allclose(numbers(answer.logits), wanted, atol=1e-4)
                np.testing.assert_allclose(
                    numbers(answer.probabilities), softmax(wanted), atol=1e-5
                )
                for mine, theirs in zip(answer.predictions, plain.predictions, strict=True):
                    assert mine.class_name == theirs.class_name
                    assert [top.class_index for top in mine.top_classes] == [
                        top.class_index for top in theirs.top_classes
                    ]


def test_an_export_needs_no_temperature_beside_it(
    calibrated: AdaptationServiceStub, adapt_request: Make, queries: Make
) -> None:
    model = calibrated.Adapt(adapt_request(), timeout=30).adapted_model
    for mode in TEMPERATURES:
        request = wire.ExportAdaptedModelRequest(adapted_model=model.id, batch_norm_mode=mode)
        _, *chunks = calibrated.ExportAdaptedModel(request, timeout=30)
        content = b"".join(message.chunk for message in chunks)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"inputs": numbers(queries().tensor)})

        answered = calibrated.Predict(
            wire.PredictRequest(adapted_model=model.id, queries=queries(), batch_norm_mode=mode),
            timeout=30,
        )

        np.testing.assert_allclose(softmax(logits), numbers(answered.probabilities), atol=1e-5)


def test_capabilities_list_calibrated_modes(
    stub: AdaptationServiceStub, calibrated: AdaptationServiceStub
) -> None:
    modes = []
    for server in (stub, calibrated):
        (model,) = server.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30).models
        modes.append(list(model.calibrated_batch_norm_modes))

    assert modes == [
        [],
        [wire.BATCH_NORM_MODE_SUPPORT_AND_QUERY, wire.BATCH_NORM_MODE_SUPPORT],
    ]
