"""The classifier in scikit-learn's conventions, against the small server of these tests."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from google.rpc.code_pb2 import Code
from joblib import parallel_config
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from kshot.client import FewShotClassifier, InputError, KshotError
from kshot.v1 import adaptation_pb2 as wire
from tests.client.conftest import FakeServicer

Array = npt.NDArray[np.generic]
DARK_AND_LIGHT = np.repeat(np.array([10, 20, 200, 220], np.uint8), 3 * 2 * 2).reshape(12, 2, 2)
LABELS = np.array(["dark"] * 6 + ["light"] * 6)


@dataclass
class Centroids(FakeServicer):
    """Answers by the nearest mean of a class."""

    means: dict[str, Array] = field(default_factory=dict)
    deleted: threading.Event = field(default_factory=threading.Event)

    def Adapt(  # noqa: N802 -- the service's own name
        self, request: wire.AdaptRequest, context: grpc.ServicerContext
    ) -> wire.AdaptResponse:
        response = super().Adapt(request, context)
        images = _pixels(request.support_set.images)
        indices = np.array(request.support_set.class_indices)
        self.means[response.adapted_model.id] = np.stack(
            [images[indices == index].mean(axis=0) for index in np.unique(indices)]
        )
        return response

    def Predict(  # noqa: N802 -- the service's own name
        self, request: wire.PredictRequest, context: grpc.ServicerContext
    ) -> wire.PredictResponse:
        response = super().Predict(request, context)
        means = self.means[request.adapted_model]
        distances = np.square(_pixels(request.queries)[:, None] - means).sum(axis=2)
        logits = -distances / 1000
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        response.probabilities.data = shares.astype("<f4").tobytes()
        return response

    def DeleteAdaptedModel(  # noqa: N802 -- the service's own name
        self, request: wire.DeleteAdaptedModelRequest, context: grpc.ServicerContext
    ) -> wire.DeleteAdaptedModelResponse:
        response = super().DeleteAdaptedModel(request, context)
        self.deleted.set()
        return response


def _pixels(images: wire.Images) -> npt.NDArray[np.float64]:
    pixels = np.frombuffer(images.tensor.data, np.uint8)
    return pixels.reshape(images.tensor.shape[0], -1).astype(np.float64)


@pytest.fixture
def servicer() -> FakeServicer:
    return Centroids()


@pytest.fixture
def fitted(address: str) -> FewShotClassifier:
    return FewShotClassifier(address, model="omniglot").fit(DARK_AND_LIGHT, LABELS)


def test_it_predicts_the_labels_of_fit(fitted: FewShotClassifier) -> None:
    assert fitted.classes_.tolist() == ["dark", "light"]
    assert fitted.predict(DARK_AND_LIGHT[[0, 11]]).tolist() == ["dark", "light"]
    assert fitted.predict_proba(DARK_AND_LIGHT).shape == (12, 2)
    assert fitted.score(DARK_AND_LIGHT, LABELS) == 1
    assert fitted.adapted_model_.class_names == ("dark", "light")


@pytest.mark.parametrize("labels", [LABELS == "light", (LABELS == "light") * 2.0])
def test_labels_of_other_types_come_back(address: str, labels: Array) -> None:
    classifier = FewShotClassifier(address).fit(DARK_AND_LIGHT, labels)

    assert classifier.predict(DARK_AND_LIGHT).tolist() == labels.tolist()


def test_rows_of_numbers_become_images(address: str, servicer: FakeServicer) -> None:
    rows = DARK_AND_LIGHT.reshape(12, 4) / 220
    classifier = FewShotClassifier(address, image_shape=(2, 2)).fit(rows, LABELS)

    (request,) = servicer.requests
    assert isinstance(request, wire.AdaptRequest)
    assert list(request.support_set.images.tensor.shape) == [12, 2, 2]
    assert max(request.support_set.images.tensor.data) == 255
    assert classifier.score(rows, LABELS) == 1


def test_rows_without_a_shape_are_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"rows of 4 numbers; pass image_shape=\(height, width"):
        FewShotClassifier(address).fit(np.zeros((4, 4)), [0, 0, 1, 1])
    with pytest.raises(InputError, match=r"image_shape: .* of 4 numbers, got \(3, 2\)"):
        FewShotClassifier(address, image_shape=(3, 2)).fit(np.zeros((4, 4)), [0, 0, 1, 1])
    with pytest.raises(InputError, match="at least two classes"):
        FewShotClassifier(address).fit(np.zeros((4, 4, 4)), [0, 0, 0, 0])


def test_parameters_are_only_stored(address: str) -> None:
    options = {"step_count": 3}
    classifier = FewShotClassifier(address, adapt_options=options)

    assert clone(classifier).get_params() == classifier.get_params()
    assert classifier.adapt_options is options
    assert classifier.set_params(model="other").model == "other"
    with pytest.raises(NotFittedError, match="not fitted"):
        classifier.predict(DARK_AND_LIGHT)


@pytest.mark.parametrize("copy_of", [lambda each: pickle.loads(pickle.dumps(each)), deepcopy, copy])  # noqa: S301 -- our own
def test_a_copy_has_a_model_of_its_own(
    fitted: FewShotClassifier,
    servicer: FakeServicer,
    copy_of: Callable[[FewShotClassifier], FewShotClassifier],
) -> None:
    copied = copy_of(fitted)

    assert copied.predict(DARK_AND_LIGHT).tolist() == LABELS.tolist()
    assert len(servicer.kept) == 2
    copied.close()
    assert list(servicer.kept) == [fitted.adapted_model_.id]


def test_a_clone_shares_nothing(fitted: FewShotClassifier, servicer: FakeServicer) -> None:
    cloned = clone(fitted)
    cloned.close()

    assert not hasattr(cloned, "classes_")
    assert list(servicer.kept) == [fitted.adapted_model_.id]


def test_a_refit_replaces_the_model(fitted: FewShotClassifier, servicer: FakeServicer) -> None:
    former = fitted.adapted_model_.id
    fitted.fit(DARK_AND_LIGHT, LABELS == "light")

    assert list(servicer.kept) == [fitted.adapted_model_.id] != [former]


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        (DARK_AND_LIGHT / 2, np.arange(12), "it is full"),
        (DARK_AND_LIGHT, [1] * 12, "one class"),
        (DARK_AND_LIGHT.reshape(12, 4), LABELS, "pass image_shape="),
        (["a.png"] * 3, ["a", "b"], "inconsistent numbers of samples"),
        (["a.png"] * 2, [["a", "b"], ["a", "b"]], "y should be a 1d array"),
        (DARK_AND_LIGHT, np.array([1, "a"] * 6, object), "[Uu]nknown label type"),
        (DARK_AND_LIGHT, ["a", None] * 6, "y: expected labels that can be sorted"),
    ],
)
def test_a_fit_that_fails_changes_nothing(
    fitted: FewShotClassifier,
    servicer: FakeServicer,
    X: object,  # noqa: N803 -- scikit-learn's name
    y: object,
    said: str,
) -> None:
    servicer.refuse(Code.RESOURCE_EXHAUSTED, "it is full", times=1)
    before = vars(fitted).copy()
    with pytest.raises((KshotError, ValueError), match=said):
        fitted.fit(X, y)

    assert vars(fitted) == before
    servicer.refusal = None
    assert fitted.score(DARK_AND_LIGHT, LABELS) == 1


def test_a_block_deletes_the_model_and_closes_the_connection(
    address: str, servicer: FakeServicer
) -> None:
    with FewShotClassifier(address) as classifier:
        handle = classifier.fit(DARK_AND_LIGHT, LABELS).adapted_model_

    assert servicer.kept == {}
    with pytest.raises(InputError, match="this client is closed"):
        handle.predict(DARK_AND_LIGHT)
    assert classifier.score(DARK_AND_LIGHT, LABELS) == 1
    classifier.close()
    classifier.close()
    assert servicer.kept == {}


def test_a_collected_classifier_takes_its_model_along(address: str, servicer: Centroids) -> None:
    """Also one in a cycle, which the collector finds at any time."""
    classifier = FewShotClassifier(address).fit(DARK_AND_LIGHT, LABELS)
    classifier.itself = classifier
    del classifier
    gc.collect()

    assert servicer.deleted.wait(60)
    assert servicer.kept == {}


def test_pictures_may_differ_in_size_and_rows_may_not(address: str) -> None:
    rows = DARK_AND_LIGHT.reshape(12, 4)
    classifier = FewShotClassifier(address, image_shape=(2, 2)).fit(rows, LABELS)
    assert classifier.n_features_in_ == 4
    with pytest.raises(ValueError, match="expecting 4 features"):
        classifier.predict(rows[:, :3])
    assert classifier.predict(DARK_AND_LIGHT).tolist() == LABELS.tolist()

    classifier.fit(DARK_AND_LIGHT, LABELS)
    assert not hasattr(classifier, "n_features_in_")
    assert classifier.predict(rows).tolist() == LABELS.tolist()


def test_many_queries_are_asked_in_parts(fitted: FewShotClassifier, servicer: FakeServicer) -> None:
    asked = np.concatenate([DARK_AND_LIGHT] * 11)

    assert fitted.score(asked, np.concatenate([LABELS] * 11)) == 1
    assert [type(each) for each in servicer.requests[1:]] == [wire.PredictRequest] * 3


@pytest.mark.parametrize("options", [7, {"model": "omniglot"}, {1: 2}])
def test_options_are_those_of_an_adaptation(address: str, options: Any) -> None:  # noqa: ANN401 -- as callers give it
    with pytest.raises(InputError, match="adapt_options: expected a dict with some of step_count"):
        FewShotClassifier(address, adapt_options=options).fit(DARK_AND_LIGHT, LABELS)


def test_an_expired_model_is_adapted_again(
    fitted: FewShotClassifier, servicer: FakeServicer
) -> None:
    servicer.kept.clear()

    assert fitted.score(DARK_AND_LIGHT, LABELS) == 1


def test_it_works_in_what_scikit_learn_builds_of_it(address: str, servicer: Centroids) -> None:
    """Several adapt at once; what the searches leave behind is deleted."""
    classifier = FewShotClassifier(address, image_shape=(2, 2))
    pipeline = make_pipeline(FunctionTransformer(lambda X: X / 2), classifier)  # noqa: N803
    rows = DARK_AND_LIGHT.reshape(12, 4).astype(np.float64)
    steps = {"fewshotclassifier__adapt_options": [{"step_count": 1}, {"step_count": 2}]}

    with parallel_config(backend="threading"):
        assert cross_val_score(pipeline, rows, LABELS, cv=3, n_jobs=3).tolist() == [1, 1, 1]
        search = GridSearchCV(pipeline, steps, cv=3, n_jobs=3).fit(rows, LABELS)
    calibrated = CalibratedClassifierCV(classifier, cv=3).fit(rows, LABELS)
    assert search.score(rows, LABELS) == calibrated.score(rows, LABELS) == 1
    search.best_estimator_[-1].close()
    for each in calibrated.calibrated_classifiers_:
        each.estimator.close()
    while servicer.kept:
        assert servicer.deleted.wait(60)
        servicer.deleted.clear()


def test_it_works_without_scikit_learn(address: str) -> None:
    lines = [
        "import sys; sys.modules['sklearn'] = None",
        "import numpy as np",
        "from kshot.client import FewShotClassifier",
        "images = np.arange(16, dtype=np.uint8).reshape(4, 2, 2)",
        f"classifier = FewShotClassifier({address!r}).set_params(timeout=20)",
        "print(classifier.fit(images, [0, 0, 1, 1]).score(images, [0, 0, 1, 1]))",
        "print(sorted(classifier.get_params()))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines() == [
        "1.0",
        "['adapt_options', 'address', 'image_shape', 'model', 'timeout']",
    ]
