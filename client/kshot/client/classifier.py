"""A classifier in scikit-learn's conventions; without scikit-learn it works alone."""

from __future__ import annotations

import inspect
import math
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kshot.client.adapted_model import AdaptedModel
from kshot.client.client import DEFAULT_TIMEOUT_S, Client
from kshot.client.errors import AdaptedModelNotFoundError, InputError
from kshot.client.inputs import gather
from kshot.client.results import Prediction
from kshot.client.values import shown

Array = npt.NDArray[Any]

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import validate_data
except ModuleNotFoundError:

    def validate_data(_estimator: object, X: object, y: object = None, **_how: object) -> Any:  # noqa: N803, ANN401 -- as scikit-learn's
        """Return arrays as they are given."""
        return np.asarray(X) if y is None else (np.asarray(X), np.asarray(y))

    def check_classification_targets(_labels: object) -> None:
        """Take labels of any kind."""

    class NotFittedError(ValueError, AttributeError):  # type: ignore[no-redef]
        """`predict` came before `fit`."""

    class ClassifierMixin:  # type: ignore[no-redef]
        """What scikit-learn's class of this name has and a user calls."""

        def score(self, X: object, y: object) -> float:  # noqa: N803 -- scikit-learn's name
            """Return the share of right answers."""
            return float(np.mean(self.predict(X) == np.asarray(y)))  # type: ignore[attr-defined]

    class BaseEstimator:  # type: ignore[no-redef]
        """What scikit-learn's class of this name has and a user calls."""

        def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 -- as scikit-learn's
            """Return the arguments of the constructor."""
            return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

        def set_params(self, **params: object) -> Self:
            """Set arguments of the constructor; raise `ValueError` for another name."""
            known = self.get_params()
            for name, value in params.items():
                if name not in known:
                    raise ValueError(f"expected one of {', '.join(known)}, got {name!r}")
                setattr(self, name, value)
            return self


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Adapts a model to labelled images in `fit`, and asks it in `predict`.

    Without an `address` it starts a server for this process (`Client.local`), which all such
    classifiers share. `model` and `adapt_options` are those of `Client.adapt`. X is
    `(n, height, width[, channels])`, or `(n, features)` with the `image_shape` of a row, or paths,
    bytes and pictures as `Client.adapt` takes them. Arrays that are not uint8 are scaled: 0 is
    black, unless `fit` saw less, and the largest number that it saw is white.

    The support set is kept: a classifier that was pickled, or whose adapted model has expired,
    adapts again.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        model: str | None = None,
        image_shape: Sequence[int] | None = None,
        adapt_options: Mapping[str, Any] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self.address = address
        self.model = model
        self.image_shape = image_shape
        self.adapt_options = adapt_options
        self.timeout = timeout

    def fit(self, X: object, y: object) -> Self:  # noqa: N803 -- scikit-learn's name
        """Adapt to images `X` with labels `y` (n,); raise `KshotError` where that fails."""
        X, labels = self._read(X, y)  # noqa: N806 -- scikit-learn's name
        self.classes_, indices = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y: expected at least two classes, got one class: {self.classes_}")
        if isinstance(X, np.ndarray) and X.dtype != np.uint8:
            self.range_ = (min(0.0, float(X.min())), float(X.max()))
        else:
            self.range_ = (0.0, 255.0)
        named = all(type(label) in (str, int) for label in self.classes_.tolist())
        self._support = (self._images(X), labels.tolist() if named else indices.tolist())
        self._adapted: AdaptedModel | None = self._adapt()
        return self

    def predict(self, X: object) -> Array:  # noqa: N803 -- scikit-learn's name
        """Return the most probable class of each image (n,)."""
        probabilities = self.predict_proba(X)
        predicted: Array = self.classes_[probabilities.argmax(axis=1)]
        return predicted

    def predict_proba(self, X: object) -> npt.NDArray[np.float64]:  # noqa: N803 -- scikit-learn's name
        """Return probabilities (n, way), in the order of `classes_`."""
        self._check_fitted()
        images = self._images(self._read(X)[0])
        probabilities = self._ask(images).probabilities.astype(np.float64)
        shares: npt.NDArray[np.float64] = probabilities / probabilities.sum(axis=1, keepdims=True)
        return shares

    @property
    def adapted_model_(self) -> AdaptedModel:
        """The adapted model, on its server."""
        self._check_fitted()
        if self._adapted is None:
            self._adapted = self._adapt()
        return self._adapted

    def _check_fitted(self) -> None:
        if not hasattr(self, "classes_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit(X, y) first")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connection out."""
        return self.__dict__ | ({"_adapted": None} if "_adapted" in self.__dict__ else {})

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 -- scikit-learn's
        """Say that X may have more than two axes."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _read(self, X: object, y: object = None) -> tuple[Any, Array]:  # noqa: N803 -- scikit-learn's name
        """Return checked images, as one array or as a list of files, and labels."""
        if _has_files(X):
            labels = np.asarray([] if y is None else y)
            return gather(X, "X"), labels
        how: dict[str, Any] = {"allow_nd": True, "dtype": None, "reset": y is not None}
        if y is None:
            checked = validate_data(self, X, **how)
            labels = np.asarray([])
        else:
            checked, labels = validate_data(self, X, y, **how)
            check_classification_targets(labels)
        if checked.dtype.kind not in "biuf":
            checked = checked.astype(np.float64)
        return checked, labels

    def _images(self, X: Any) -> Any:  # noqa: ANN401, N803 -- as gathered
        """Return images as `Client.adapt` takes them, by `image_shape` and `range_`."""
        if not isinstance(X, np.ndarray):
            return X
        if X.ndim == 2:
            X = X.reshape(len(X), *self._row_shape(X.shape[1]))  # noqa: N806 -- as above
        if X.dtype == np.uint8:
            return X
        low, high = self.range_
        levels = (X.astype(np.float64) - low) * (255.0 / (high - low or 1.0))
        return levels.clip(0, 255).round().astype(np.uint8)

    def _row_shape(self, feature_count: int) -> tuple[int, ...]:
        if self.image_shape is None:
            raise InputError(
                f"X: expected images (n, height, width[, channels]), got rows of {feature_count} "
                "numbers; pass image_shape=(height, width[, channels])"
            )
        shape = tuple(self.image_shape)
        if math.prod(shape) != feature_count:
            raise InputError(
                f"image_shape: expected the shape of {feature_count} numbers, got {shown(shape)}"
            )
        return shape

    def _adapt(self) -> AdaptedModel:
        images, labels = self._support
        client = _client(self.address, self.timeout)
        return client.adapt(
            images,
            labels,
            model=self.model,
            timeout=self.timeout,
            **(self.adapt_options or {}),  # checked by `adapt`
        )

    def _ask(self, images: Any) -> Prediction:  # noqa: ANN401 -- as gathered
        """Predict; adapt again where the server has the adapted model no more."""
        adapted = self.adapted_model_
        try:
            return adapted.predict(images, timeout=self.timeout)
        except AdaptedModelNotFoundError:
            self._adapted = None
            return self.adapted_model_.predict(images, timeout=self.timeout)


def _has_files(images: object) -> bool:
    """Tell whether images are a list of anything but arrays and numbers."""
    if isinstance(images, np.ndarray) or not isinstance(images, list | tuple) or not images:
        return False
    first = images[0]
    picture = hasattr(first, "mode") and hasattr(first, "getbands")
    return picture or isinstance(first, str | bytes | os.PathLike)


_lock = threading.Lock()
_clients: dict[tuple[int, str | None], Client] = {}


def _client(address: str | None, timeout: float) -> Client:
    """Return the client that the classifiers of this process share, for an address."""
    key = (os.getpid(), address)
    with _lock:
        client = _clients.get(key)
        if client is None or not client.usable:
            client = Client.local(timeout=timeout) if address is None else Client(address)
            _clients[key] = client
        return client
