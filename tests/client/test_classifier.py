"""The classifier in scikit-learn's conventions, against the small server of these tests."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass, field

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from kshot.client import FewShotClassifier, InputError
from kshot.v1 import adaptation_pb2 as wire
from tests.client.conftest import FakeServicer

Array = npt.NDArray[np.generic]
DARK_AND_LIGHT = np.repeat(np.array([10, 20, 200, 220], np.uint8), 3 * 2 * 2).reshape(12, 2, 2)
LABELS = np.array(["dark"] * 6 + ["light"] * 6)


@dataclass
class Centroids(FakeServicer):
    """Answers by the nearest mean of a class."""

    means: dict[str, Array] = field(default_factory=dict)

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


def test_a_pickle_adapts_again(fitted: FewShotClassifier, servicer: FakeServicer) -> None:
    copied = pickle.loads(pickle.dumps(fitted))  # noqa: S301 -- our own

    assert copied.predict(DARK_AND_LIGHT).tolist() == LABELS.tolist()
    assert len(servicer.kept) == 2


def test_an_expired_model_is_adapted_again(
    fitted: FewShotClassifier, servicer: FakeServicer
) -> None:
    servicer.kept.clear()

    assert fitted.score(DARK_AND_LIGHT, LABELS) == 1


def test_it_works_in_pipelines_and_cross_validation(address: str) -> None:
    classifier = FewShotClassifier(address, image_shape=(2, 2))
    pipeline = make_pipeline(FunctionTransformer(lambda X: X / 2), classifier)  # noqa: N803
    rows = DARK_AND_LIGHT.reshape(12, 4).astype(np.float64)

    assert cross_val_score(pipeline, rows, LABELS, cv=3).tolist() == [1, 1, 1]


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
