"""A request that names no model is answered by the served model that suits it best."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import Bundle
from kshot.server.predict.encoder import Encoder
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from tests.patience import with_more_time

Make = Callable[..., Any]
Numbers = np.ndarray[Any, Any]
WAY, SHOT = 3, 4
MEANS = wire.AdaptOptions(head=wire.HEAD_PROTOTYPE, step_count=0)


@pytest.fixture(scope="module")
def both(
    make_config: Make,
    tiny_bundle: Bundle,
    encoder_bundle: Bundle,
    run_in_thread: Make,
    pipes: object,  # noqa: ARG001 -- the fake engine needs it
) -> Iterator[AdaptationServiceStub]:
    """A server of two models: `tiny` sees every other pixel, `encoded` the mean of four."""
    with run_in_thread(make_config(bundles=(tiny_bundle.path, encoder_bundle.path))) as server:
        yield server.stub


def pixels(shot: int, *, averaged: bool) -> Numbers:
    """Return pictures of classes that either the means tell apart, or single pixels alone."""
    classes = np.arange(WAY).repeat(shot)
    pictures = np.full((len(classes), 8, 8), 128, np.uint8)
    pictures += np.random.default_rng(0).integers(0, 3, pictures.shape, np.uint8)
    for picture, index in zip(pictures, classes, strict=True):
        row = 2 * index
        picture[row, ::2] += 60
        if not averaged:
            picture[row + 1, 1::2] -= 60
    return pictures


def sent(array: Numbers) -> wire.Images:
    datatype = "UINT8" if array.dtype == np.uint8 else "FP32"
    tensor = wire.Tensor(datatype=datatype, shape=array.shape, data=array.tobytes())
    return wire.Images(tensor=tensor)


def asked(
    pictures: Numbers, options: wire.AdaptOptions | None = None, model: str = ""
) -> wire.AdaptRequest:
    indices = np.arange(WAY).repeat(len(pictures) // WAY).tolist()
    names = [f"class {index}" for index in range(WAY)]
    support = wire.SupportSet(images=sent(pictures), class_indices=indices, class_names=names)
    return wire.AdaptRequest(model=model, support_set=support, options=options)


@pytest.mark.parametrize(("averaged", "name"), [(True, "encoded"), (False, "tiny")])
def test_left_out_examples_decide(both: AdaptationServiceStub, averaged: bool, name: str) -> None:
    """The answer is that of the model by its name; both calls that adapt choose alike."""
    request = asked(pixels(SHOT, averaged=averaged), MEANS)
    once = wire.AdaptAndPredictRequest(
        support_set=request.support_set, options=MEANS, queries=request.support_set.images
    )

    response = both.Adapt(request, timeout=60)
    together = both.AdaptAndPredict(once, timeout=60)
    request.model = name
    named = both.Adapt(request, timeout=60)

    assert response.adapted_model.model == together.adapted_model.model == name
    assert response.adapted_model.adaptation_digest == named.adapted_model.adaptation_digest
    entropies = {each.model: each.estimate.cross_entropy for each in response.report.chosen_from}
    assert list(entropies) == ["tiny", "encoded"]
    assert min(entropies, key=lambda model: entropies[model]) == name
    assert response.report.estimate.accuracy == 1.0
    assert [answer.class_index for answer in together.predictions] == list(
        request.support_set.class_indices
    )
    assert list(named.report.chosen_from) == []


@pytest.mark.parametrize(("drawn", "name"), [(True, "tiny"), (False, "encoded")])
def test_pictures_decide_among_models_that_are_as_good(
    both: AdaptationServiceStub, drawn: bool, name: str
) -> None:
    """Both tell blocks of ink apart; without a plain ground the one with an encoder is taken."""
    pictures = np.full((WAY * SHOT, 8, 8, 3), 255, np.uint8)
    pictures[..., 0, :4, :] = 255 if drawn else 0
    for index, picture in enumerate(pictures):
        column = 1 + 2 * (index // SHOT)
        picture[2:6, column : column + 2] = index

    response = both.Adapt(asked(pictures, MEANS), timeout=60)

    assert response.adapted_model.model == name
    assert {each.estimate.accuracy for each in response.report.chosen_from} == {1.0}


def test_the_choice_needs_no_estimate_in_the_report(both: AdaptationServiceStub) -> None:
    options = wire.AdaptOptions(head=wire.HEAD_PROTOTYPE, step_count=0, estimate=False)

    response = both.Adapt(asked(pixels(SHOT, averaged=True), options), timeout=60)

    assert response.adapted_model.model == "encoded"
    assert not response.report.HasField("estimate")
    assert all(each.HasField("estimate") for each in response.report.chosen_from)


@pytest.mark.parametrize(
    ("shot", "options"), [(1, MEANS), (SHOT, None)], ids=["one example", "steps"]
)
def test_pictures_decide_where_no_example_can_be_left_out(
    both: AdaptationServiceStub, shot: int, options: wire.AdaptOptions | None
) -> None:
    """Drawings go to the first model that takes gray images, others to the one with an encoder."""
    drawn = np.full((WAY * shot, 8, 8), 255, np.uint8)
    for index, picture in enumerate(drawn):
        picture[3:5, 1 + index % 4 : 3 + index % 4] = 0
    random = np.random.default_rng(0).integers(0, 256, (WAY * shot, 8, 8, 3), np.uint8)

    for pictures, name in ((drawn, "tiny"), (random, "encoded")):
        response = both.Adapt(asked(pictures, options), timeout=60)

        assert response.adapted_model.model == name
        assert [each.model for each in response.report.chosen_from] == ["tiny", "encoded"]
        assert not any(each.HasField("estimate") for each in response.report.chosen_from)


def test_only_models_that_a_request_fits_take_part(both: AdaptationServiceStub) -> None:
    """Prepared images fit the model of their shape; it is named as if the caller had."""
    prepared = np.random.default_rng(0).random((WAY * SHOT, 1, 8, 8), np.float32)

    response = both.Adapt(asked(prepared, MEANS), timeout=60)

    assert response.adapted_model.model == "encoded"
    assert list(response.report.chosen_from) == []


def test_a_request_that_no_model_fits_is_refused_once(
    both: AdaptationServiceStub, refusal: Make
) -> None:
    """With what is wrong for the model that comes closest."""
    request = asked(pixels(SHOT, averaged=True), wire.AdaptOptions(step_count=10**6))

    refused = refusal(lambda: both.Adapt(request, timeout=60))

    assert refused.violations == {"options.step_count": "expected 0 to 100, got 1000000"}


def test_a_single_model_needs_no_name(stub: AdaptationServiceStub, support_set: Make) -> None:
    response = stub.Adapt(wire.AdaptRequest(support_set=support_set()), timeout=60)

    assert response.adapted_model.model == "tiny"
    assert list(response.report.chosen_from) == []


def test_warnings_are_those_of_the_chosen_model(both: AdaptationServiceStub) -> None:
    """`tiny` sees no difference between these pictures and must not say so."""
    pictures = np.full((WAY * SHOT, 8, 8), 128, np.uint8)
    for index, picture in enumerate(pictures):
        picture[2 * (index // SHOT), ::2] += 60 + index

    response = both.Adapt(asked(pictures, MEANS), timeout=60)

    assert response.adapted_model.model == "encoded"
    assert list(response.report.warnings) == []


def test_the_best_that_is_done_answers_before_the_deadline(
    both: AdaptationServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only the engine may take too long; files as well as numbers."""
    files = []
    for picture in pixels(SHOT, averaged=True):
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        files.append(stream.getvalue())
    options = wire.AdaptOptions(head=wire.HEAD_PROTOTYPE, step_count=0, allow_partial=True)
    request = asked(pixels(SHOT, averaged=True), options)
    request.support_set.images.CopyFrom(wire.Images(encoded=wire.EncodedImages(items=files)))
    assert both.Adapt(request, timeout=60).adapted_model.model == "encoded"
    go_on, encode = threading.Event(), Encoder.encode

    def slow(encoder: Encoder, images: Numbers) -> Numbers:
        go_on.wait()
        return encode(encoder, images)

    monkeypatch.setattr(Encoder, "encode", slow)
    try:
        response = with_more_time(lambda seconds: both.Adapt(request, timeout=seconds), 1.5)
    finally:
        go_on.set()

    assert response.adapted_model.model == "tiny"
    assert [each.HasField("estimate") for each in response.report.chosen_from] == [True, False]
    assert "the deadline came before encoded could be tried" in "".join(response.report.warnings)
