"""What the server tells of a support set: accuracy to expect, and examples that may do harm."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kshot.bundle import (
    BatchNormMode,
    Bundle,
    Head,
    HeadPolicy,
    NetworkSpec,
    RidgeRule,
    RidgeSettings,
    write_bundle,
)
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from tests.patience import with_more_time

Make = Callable[..., Any]
HANG_IN_FOLDS = 909  # a seed of the fake engine
StartServer = Callable[..., AbstractContextManager[Any]]
Templates = dict[BatchNormMode, bytes]


@pytest.fixture(scope="module")
def ridge_bundle(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle, tiny_templates: Templates
) -> Bundle:
    """The tiny bundle as if its inputs were features in two blocks, for head `ridge`."""
    rule = RidgeRule(5, penalty=0.1, evidence=0.0, scale=4.0, weights=(0.5, 0.5))
    manifest = replace(
        tiny_bundle.manifest,
        name="ridge",
        network=NetworkSpec("features", {}),
        head=HeadPolicy(Head.RIDGE, (Head.RIDGE,)),
        ridge=RidgeSettings((8, 8), (rule,)),
        files={},
    )
    root = tmp_path_factory.mktemp("ridge")
    return write_bundle(root, manifest, tiny_bundle.read_weights(), tiny_templates, "# ridge\n")


def test_a_head_from_the_support_set_comes_with_an_estimate(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    request = adapt_request(way=3, shot=2, head=wire.HEAD_PROTOTYPE, step_count=0)

    report = stub.Adapt(request, timeout=30).report

    assert report.estimate.example_count == 6
    assert report.estimate.accuracy == report.estimate.high == 1.0
    assert 0.3 < report.estimate.low < 0.9
    assert list(report.estimate.confusion) == [2, 0, 0, 0, 2, 0, 0, 0, 2]


def test_one_example_of_each_class_gives_no_estimate(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    request = adapt_request(way=3, shot=1, head=wire.HEAD_PROTOTYPE, step_count=0)

    assert not stub.Adapt(request, timeout=30).report.HasField("estimate")


def test_an_estimate_can_be_left_out(
    stub: AdaptationServiceStub, adapt_request: Make, queries: Make
) -> None:
    """With the notes on examples and the known scores; the adaptation is the same."""
    options = {"head": wire.HEAD_PROTOTYPE, "step_count": 0}
    request = adapt_request(way=3, shot=2, **options)
    images = np.frombuffer(request.support_set.images.tensor.data, "<f4").reshape(6, -1).copy()
    images[1] = 0.5
    request.support_set.images.tensor.data = images.tobytes()
    usual = stub.Adapt(request, timeout=30)
    request.options.estimate = False

    response = stub.Adapt(request, timeout=30)
    model = response.adapted_model
    asked = wire.PredictRequest(adapted_model=model.id, queries=queries())

    assert usual.adapted_model.options.estimate
    assert not model.options.estimate
    assert not response.report.HasField("estimate")
    assert (len(usual.report.example_notes), len(response.report.example_notes)) == (1, 0)
    assert list(response.report.warnings) == list(usual.report.warnings) != []
    assert model.adaptation_digest == usual.adapted_model.adaptation_digest
    assert model.weights_digest == usual.adapted_model.weights_digest
    answers = stub.Predict(asked, timeout=30).predictions
    assert not any(answer.HasField("known_score") for answer in answers)


def test_steps_leave_no_estimate(stub: AdaptationServiceStub, adapt_request: Make) -> None:
    assert not stub.Adapt(adapt_request(step_count=3), timeout=30).report.HasField("estimate")


def test_folds_estimate_where_steps_are_taken(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    """The adapted model is the same; its known scores come from the folds' answers."""
    request = adapt_request(way=3, shot=4, step_count=10)
    usual = stub.Adapt(request, timeout=30)
    request.options.fold_count = 2

    response = stub.Adapt(request, timeout=30)
    model = response.adapted_model
    asked = wire.PredictRequest(
        adapted_model=model.id, queries=request.support_set.images, reject_below=0.1
    )

    estimate = response.report.estimate
    assert (estimate.example_count, sum(estimate.confusion)) == (12, 12)
    right = sum(estimate.confusion[::4])
    assert estimate.accuracy == pytest.approx(1 - (1 - right / 12) * 0.5**0.5)
    assert model.weights_digest == usual.adapted_model.weights_digest
    assert model.adaptation_digest == usual.adapted_model.adaptation_digest
    assert all(answer.HasField("known_score") for answer in stub.Predict(asked).predictions)


def test_folds_that_the_deadline_stops_cost_the_estimate_alone(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    request = adapt_request(way=3, shot=3, step_count=3, fold_count=2, seed=HANG_IN_FOLDS)

    response = with_more_time(lambda seconds: stub.Adapt(request, timeout=seconds), 2)

    assert not response.report.HasField("estimate")
    (sentence,) = response.report.warnings
    assert "there is no estimate by folds: the time did not suffice" in sentence
    kept = wire.GetAdaptedModelRequest(adapted_model=response.adapted_model.id)
    assert stub.GetAdaptedModel(kept, timeout=30).adapted_model == response.adapted_model


def test_examples_that_may_do_harm_are_named(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    request = adapt_request(way=3, shot=2, head=wire.HEAD_PROTOTYPE, step_count=0)
    images = np.frombuffer(request.support_set.images.tensor.data, "<f4").reshape(6, -1).copy()
    images[1] = 0.5
    images[4] = images[0]
    request.support_set.images.tensor.data = images.tobytes()

    notes = {note.index: note for note in stub.Adapt(request, timeout=30).report.example_notes}

    assert notes[1].flaw == wire.EXAMPLE_FLAW_BLANK
    assert not notes[1].HasField("other_index")
    assert notes[4].flaw == wire.EXAMPLE_FLAW_DUPLICATE
    assert (notes[4].other_index, notes[4].class_index) == (0, 0)


def test_a_support_set_that_may_mislead_brings_warnings(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    """From both calls that adapt."""
    request = adapt_request(way=2, shot=5)
    request.support_set.class_indices[:] = [0] * 8 + [1] * 2
    once = wire.AdaptAndPredictRequest(
        model="tiny", support_set=request.support_set, queries=request.support_set.images
    )

    for call, message in ((stub.Adapt, request), (stub.AdaptAndPredict, once)):
        (sentence,) = call(message, timeout=30).report.warnings
        assert "class 'class 0' has 8 examples and class 'class 1' 2;" in sentence


def test_queries_unlike_the_classes_are_none_of_these(
    stub: AdaptationServiceStub, adapt_request: Make, queries: Make
) -> None:
    request = adapt_request(way=3, shot=4, head=wire.HEAD_PROTOTYPE, step_count=0)
    model = stub.Adapt(request, timeout=30).adapted_model
    support = np.frombuffer(request.support_set.images.tensor.data, "<f4").reshape(12, 1, 4, 4)
    mixed = queries(count=2)
    mixed.tensor.data = np.stack([support[0], support.mean(axis=0)]).astype("<f4").tobytes()
    asked = wire.PredictRequest(adapted_model=model.id, queries=mixed, reject_below=0.1)

    known, unknown = stub.Predict(asked, timeout=30).predictions

    assert known.known_score > 0.3
    assert not known.none_of_these
    assert unknown.known_score < 0.1
    assert unknown.none_of_these


def test_a_picture_far_from_all_examples_is_none_of_these(
    start_server: StartServer, ridge_bundle: Bundle, adapt_request: Make, tmp_path: Path
) -> None:
    """Behind a head by ridge regression, though the choice between the classes is clear."""
    request = adapt_request(way=3, shot=4, head=wire.HEAD_RIDGE, step_count=0)
    request.model = "ridge"
    random = np.random.default_rng(0)
    images = np.zeros((3, 4, 16), np.float32)
    images[np.arange(3), :, np.arange(3)] = 0.8
    images += random.uniform(0, 0.2, images.shape)
    request.support_set.images.tensor.data = images.astype("<f4").tobytes()
    known = images.mean(axis=1)
    far = known[:1] + 0.7 * np.isin(np.arange(16), [4, 5, 6])
    asked = np.concatenate([known, far]).astype("<f4")
    tensor = wire.Tensor(datatype="FP32", shape=(4, 1, 4, 4), data=asked.tobytes())
    answers = []

    for _ in range(2):  # before a restart, and behind it
        with start_server(store=tmp_path / "s", bundles=(ridge_bundle.path,)) as server:
            if not answers:
                adapted = server.stub.Adapt(request, timeout=30).adapted_model.id
            predict = wire.PredictRequest(
                adapted_model=adapted, queries=wire.Images(tensor=tensor), reject_below=0.1
            )
            answers.append(server.stub.Predict(predict, timeout=30))

    assert answers[0].predictions[3].probability > 0.99
    assert [each.class_index for each in answers[0].predictions[:3]] == [0, 1, 2]
    assert [each.none_of_these for each in answers[0].predictions] == [False] * 3 + [True]
    assert answers[1].predictions == answers[0].predictions


def test_a_threshold_needs_left_out_examples(
    stub: AdaptationServiceStub, adapt_request: Make, queries: Make, refusal: Make
) -> None:
    """A model that took steps has none; nothing is refused by mistake."""
    request = adapt_request(step_count=3)
    model = stub.Adapt(request, timeout=30).adapted_model
    plain = wire.PredictRequest(adapted_model=model.id, queries=queries())
    asked = wire.PredictRequest(adapted_model=model.id, queries=queries(), reject_below=0.1)
    both = wire.AdaptAndPredictRequest(
        model="tiny",
        support_set=request.support_set,
        options=request.options,
        queries=queries(),
        reject_below=0.1,
    )

    answers = stub.Predict(plain, timeout=30).predictions

    assert not any(answer.HasField("known_score") or answer.none_of_these for answer in answers)
    for call, message in ((stub.Predict, asked), (stub.AdaptAndPredict, both)):
        found = refusal(lambda call=call, message=message: call(message, timeout=30))
        assert "two examples or more per class" in found.violations["reject_below"]
