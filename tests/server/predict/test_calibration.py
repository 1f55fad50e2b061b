"""A bundle's temperatures divide logits wherever they come from, and change no order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kshot.bundle import BatchNormMode, Bundle
from kshot.server.predict.export import export_model
from kshot.server.predict.hot_set import HotSet
from kshot.server.predict.prediction import Answers, read_logits
from kshot.server.predict.predictor import Predictor
from kshot.server.request.inputs import PredictInput
from kshot.server.rpc.encode import add_predictions
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.v1 import adaptation_pb2 as wire

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]

# Mode, way, number of support examples, temperature: see `calibrated_bundle`.
CASES = [
    (BatchNormMode.SUPPORT, 5, 5, 1.5),
    (BatchNormMode.SUPPORT, 2, 3, 1.5 * 2 ** math.log(1.5, 5)),
    (BatchNormMode.SUPPORT, 3, 30, 3.0),
    (BatchNormMode.SUPPORT_AND_QUERY, 4, 4, 0.25),
    (BatchNormMode.SUPPORT_AND_QUERY, 4, 20, 0.75),
    (BatchNormMode.TRANSDUCTIVE, 5, 5, 1.0),
]


def queries(count: int) -> Floats:
    return np.random.default_rng(count).normal(size=(count, 1, 4, 4)).astype(np.float32)


@pytest.mark.parametrize(("mode", "way", "support_count", "temperature"), CASES)
def test_logits_are_divided_whoever_computes_them(
    tiny_bundle: Bundle,
    calibrated_bundle: Bundle,
    make_arrays: MakeArrays,
    make_model: MakeModel,
    mode: BatchNormMode,
    way: int,
    support_count: int,
    temperature: float,
) -> None:
    """By the template, by a session of the adapted model's own, and by its export."""
    arrays, inputs = make_arrays(way, way=way, support_count=support_count), queries(9)
    plain = Predictor(tiny_bundle).logits(arrays, inputs, mode)
    wanted = plain / np.float32(temperature)

    logits = Predictor(calibrated_bundle).logits(arrays, inputs, mode)
    hot_set = HotSet(1, after_images=1)
    hot = Predictor(calibrated_bundle, hot_set=hot_set)
    for _ in range(2):
        hot.logits(arrays, inputs, mode)
    hot_set._builder.submit(lambda: None).result(60)
    assert len(hot_set) == 1
    by_own_session = hot.logits(arrays, inputs, mode)
    hot_set.close()
    content = export_model(calibrated_bundle, arrays, make_model(way=way), mode)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (exported,) = session.run(["logits"], {"inputs": inputs})

    np.testing.assert_array_equal(logits, wanted)
    assert logits.dtype == exported.dtype == np.float32
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(by_own_session, wanted, atol=1e-5 * scale, rtol=0)
    np.testing.assert_allclose(exported, wanted, atol=1e-5 * scale, rtol=0)
    facts = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    assert float(facts["kshot.temperature_applied"]) == temperature


@pytest.mark.parametrize(("mode", "way", "support_count", "temperature"), CASES)
def test_probabilities_match_torch(
    tiny_bundle: Bundle,
    calibrated_bundle: Bundle,
    make_arrays: MakeArrays,
    mode: BatchNormMode,
    way: int,
    support_count: int,
    temperature: float,
) -> None:
    arrays, inputs = make_arrays(way, way=way, support_count=support_count), queries(9)
    names = [f"class {index}" for index in range(way)]
    plain = Predictor(tiny_bundle).logits(arrays, inputs, mode)
    wanted = torch.softmax(torch.from_numpy(plain) / temperature, dim=-1).numpy()

    answers = read_logits(Predictor(calibrated_bundle).logits(arrays, inputs, mode), mode)

    np.testing.assert_allclose(answers.probabilities, wanted, atol=1e-6, rtol=0)
    before, after = (
        [[top.class_index for top in each.top_classes] for each in messages]
        for messages in (
            predictions(read_logits(plain, mode), names, best_of(way)),
            predictions(answers, names, best_of(way)),
        )
    )
    assert before == after


def predictions(
    answers: Answers, names: Sequence[str], query: PredictInput
) -> Sequence[wire.Prediction]:
    """Return the messages of answers."""
    return add_predictions(wire.PredictResponse(), answers, names, query).predictions


def best_of(top_k: int) -> PredictInput:
    """Ask for this number of best classes."""
    return PredictInput(None, None, top_k, return_logits=False)


def test_classes_of_probability_zero_keep_order() -> None:
    """A temperature below 1 takes probabilities to 0 that differed before."""
    logits = np.array([[-500.0, 900.0, -400.0, -450.0]], np.float32)

    (message,) = predictions(
        read_logits(logits, BatchNormMode.SUPPORT), ["a", "b", "c", "d"], best_of(4)
    )

    assert [top.class_name for top in message.top_classes] == ["b", "c", "d", "a"]
    assert [top.probability for top in message.top_classes] == [1, 0, 0, 0]
