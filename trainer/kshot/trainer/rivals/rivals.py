"""The trivial classifiers that an adapted network has to beat."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from kshot.local import pip_install
from kshot.trainer.errors import TrainingError
from kshot.trainer.rivals.features import (
    Features,
    colour_histogram,
    gradient_histograms,
    gray_pixels,
    rgb_pixels,
)

Labels = npt.NDArray[np.int64]
MAX_ITERATIONS = 300
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
NEIGHBOURS = (1.0, 3.0, 5.0)


class Classifier(Protocol):
    """What scikit-learn's classifiers do; labels are 0..classes-1, each with an example."""

    def fit(self, features: Features, labels: Labels) -> object:
        """Learn labelled examples."""

    def predict_proba(self, features: Features) -> Features:
        """Return probabilities `(n, classes)`."""


@dataclass(frozen=True)
class Rival:
    """A trivial classifier: what it sees of a picture, and what it learns from that.

    `setting` is the classifier's one setting, and `settings` are those that tuning tries: the
    strength C of logistic regression, or the number of neighbours.
    """

    title: str
    describe: Callable[[Image.Image], Features]
    classifier: Callable[[float], Classifier]
    setting: float
    settings: Sequence[float]

    def fit(self, features: Features, labels: Labels, setting: float | None = None) -> Classifier:
        """Return a classifier that learned examples `(n, features)` and their labels `(n,)`."""
        learned = self.classifier(self.setting if setting is None else setting)
        learned.fit(features, labels)
        return learned


class LogisticRegression:
    """scikit-learn's logistic regression with the penalty's inverse `strength`, C.

    Few examples of many features are first turned into the coordinates of their span: the penalty
    keeps the weights in it, so the answers stay the same, and fitting is many times faster. A fit
    that does not converge in 300 iterations is taken as it is.
    """

    def __init__(self, strength: float) -> None:
        from sklearn.linear_model import LogisticRegression as Learner

        self._learner = Learner(C=strength, max_iter=MAX_ITERATIONS, solver="newton-cg")
        self._basis: Features | None = None  # (features, span)

    def fit(self, features: Features, labels: Labels) -> object:
        """Learn labelled examples."""
        from sklearn.exceptions import ConvergenceWarning

        if features.shape[0] < features.shape[1]:
            self._basis = np.linalg.qr(features.T).Q
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._learner.fit(self._in_span(features), labels)
        return self

    def predict_proba(self, features: Features) -> Features:
        """Return probabilities `(n, classes)`."""
        found: Features = self._learner.predict_proba(self._in_span(features))
        return found

    def _in_span(self, features: Features) -> Features:
        return features if self._basis is None else features @ self._basis


class NearestNeighbours:
    """scikit-learn's vote of the `count` nearest examples, by Euclidean distance."""

    def __init__(self, count: float) -> None:
        from sklearn.neighbors import KNeighborsClassifier

        self._learner = KNeighborsClassifier(round(count))

    def fit(self, features: Features, labels: Labels) -> object:
        """Learn labelled examples; all of them vote where they are fewer than `count`."""
        self._learner.n_neighbors = min(self._learner.n_neighbors, len(labels))
        self._learner.fit(features, labels)
        return self

    def predict_proba(self, features: Features) -> Features:
        """Return the shares of the votes `(n, classes)`."""
        found: Features = self._learner.predict_proba(features)
        return found


RIVALS: Mapping[str, Rival] = MappingProxyType(
    {
        "pixels-1nn": Rival(
            "nearest neighbour on 28x28 gray pixels",
            gray_pixels,
            NearestNeighbours,
            1.0,
            NEIGHBOURS,
        ),
        "pixels-lr": Rival(
            "logistic regression on 28x28 RGB pixels",
            rgb_pixels,
            LogisticRegression,
            1.0,
            STRENGTHS,
        ),
        "hog-lr": Rival(
            "HOG and logistic regression", gradient_histograms, LogisticRegression, 1.0, STRENGTHS
        ),
        "colour-lr": Rival(
            "colour histogram and logistic regression",
            colour_histogram,
            LogisticRegression,
            10.0,
            STRENGTHS,
        ),
    }
)


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold scikit-learn's libraries to one thread around a block: more slow small tasks down."""
    import sklearn.linear_model  # noqa: F401 -- loads the libraries that are held
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def check_rivals() -> None:
    """Raise `TrainingError` with the pip command when their libraries are not installed."""
    for module, name in (("sklearn", "scikit-learn"), ("skimage", "scikit-image")):
        if find_spec(module) is None:
            raise TrainingError(
                f"trivial classifiers need {name!r}, which is not installed: {pip_install('try')}"
            )
