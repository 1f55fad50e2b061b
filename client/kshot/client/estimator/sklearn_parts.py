"""What the classifier has from scikit-learn 1.6 or newer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets as check_targets
from sklearn.utils.validation import check_array, check_consistent_length, validate_data

__all__ = [
    "BaseEstimator",
    "ClassifierMixin",
    "NotFittedError",
    "check_examples",
    "check_labels",
    "check_queries",
    "check_targets",
]
Array = npt.NDArray[Any]


def check_examples(estimator: object, X: object, y: object) -> tuple[Array, Array]:  # noqa: N803 -- scikit-learn's name
    """Return arrays of numbers `(n, ...)` and of labels `(n,)`; note the features of rows.

    Raises `ValueError` for what is none, not finite, or differs in length.
    """
    images, labels = validate_data(estimator, X, y, allow_nd=True)
    if images.ndim > 2:
        _forget_features(estimator)
    return images, labels


def check_labels(estimator: object, files: Sequence[object], y: object) -> Array:
    """Return an array of labels `(n,)` for n files; raise `ValueError` as `check_examples` does."""
    labels: Array = validate_data(estimator, y=y)
    check_consistent_length(files, labels)
    _forget_features(estimator)
    return labels


def check_queries(estimator: object, X: object) -> Array:  # noqa: N803 -- as above
    """Return an array of numbers; raise `ValueError` for rows that are not like those of fit."""
    # Names count before values: pandas fills columns of other names with NaN.
    validate_data(estimator, X, reset=False, skip_check_array=True, ensure_2d=False)
    images: Array = check_array(X, allow_nd=True, estimator=estimator, input_name="X")
    if images.ndim == 2:
        validate_data(estimator, X, reset=False, skip_check_array=True)
    return images


def _forget_features(estimator: object) -> None:
    """Let pictures have any size: those of an earlier fit may have been rows."""
    with suppress(AttributeError):
        del estimator.n_features_in_  # type: ignore[attr-defined]
