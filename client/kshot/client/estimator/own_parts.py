"""What the classifier has where scikit-learn is not installed: as much of it as a user calls."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kshot.client.errors import InputError

Array = npt.NDArray[Any]


class NotFittedError(ValueError, AttributeError):
    """`predict` came before `fit`."""


class ClassifierMixin:
    """What scikit-learn's class of this name has and a user calls."""

    def score(self, X: object, y: object) -> float:  # noqa: N803 -- scikit-learn's name
        """Return the share of right answers."""
        return float(np.mean(self.predict(X) == np.asarray(y)))  # type: ignore[attr-defined]


class BaseEstimator:
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


def check_examples(estimator: Any, X: object, y: object) -> tuple[Array, Array]:  # noqa: ANN401, N803 -- scikit-learn's
    """Return arrays of numbers `(n, ...)` and of labels `(n,)`; note the features of rows.

    Raises `InputError` for what is none, not finite, or differs in length.
    """
    images = _numbers(X)
    labels = check_labels(estimator, images, y)
    if images.ndim == 2:
        estimator.n_features_in_ = images.shape[1]
    return images, labels


def check_labels(estimator: object, images: Sequence[object] | Array, y: object) -> Array:
    """Return an array of labels `(n,)` for n images; raise as `check_examples` does."""
    vars(estimator).pop("n_features_in_", None)  # of an earlier fit
    labels = np.asarray(y)
    if y is None or labels.shape != (len(images),):
        got = "None" if y is None else f"shape {labels.shape}"
        raise InputError(f"y: expected one label for each of {len(images)} images, got {got}")
    return labels


def check_targets(labels: Array) -> None:
    """Raise `InputError` for labels that are no classes."""
    if labels.dtype.kind == "f" and not np.equal(labels, np.floor(labels)).all():
        raise InputError("y: expected classes, got numbers with fractions")


def check_queries(estimator: Any, X: object) -> Array:  # noqa: ANN401, N803 -- as above
    """Return an array of numbers; raise `InputError` for rows that are not like those of fit."""
    images = _numbers(X)
    wanted = getattr(estimator, "n_features_in_", None)
    if images.ndim == 2 and wanted not in (None, images.shape[1]):
        raise InputError(f"X: expected rows of {wanted} numbers as in fit, got {images.shape[1]}")
    return images


def _numbers(X: object) -> Array:  # noqa: N803 -- as above
    try:
        images = np.asarray(X)
        images = images.astype(np.float64) if images.dtype == object else images
    except (ValueError, TypeError) as error:
        raise InputError(f"X: expected images of one size: {error}") from error
    if images.dtype.kind not in "biuf" or images.ndim < 2 or not images.size:
        raise InputError(
            f"X: expected images (n, height, width[, channels]) of numbers, got {images.dtype} of "
            f"shape {images.shape}"
        )
    if not np.isfinite(images).all():
        raise InputError("X: expected finite numbers, got NaN or infinity")
    return images
