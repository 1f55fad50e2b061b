"""A classifier in scikit-learn's conventions; without scikit-learn it works alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from kshot.client.adapted_model import AdaptedModel
from kshot.client.client import DEFAULT_TIMEOUT_S, Client
from kshot.client.errors import (
    AdaptedModelNotFoundError,
    DataLossError,
    InputError,
    ModelChangedError,
)
from kshot.client.estimator.own_model import OwnModel
from kshot.client.estimator.pictures import as_pictures, batches, divided, levels_of
from kshot.client.options import AdaptOptions
from kshot.client.values import shown

try:
    from kshot.client.estimator.sklearn_parts import (
        BaseEstimator,
        ClassifierMixin,
        NotFittedError,
        check_examples,
        check_labels,
        check_queries,
        check_targets,
    )
except ImportError:  # absent, or older than 1.6
    from kshot.client.estimator.own_parts import (  # type: ignore[assignment]
        BaseEstimator,
        ClassifierMixin,
        NotFittedError,
        check_examples,
        check_labels,
        check_queries,
        check_targets,
    )

Array = npt.NDArray[Any]
# After these the server has the adapted model no more, or cannot use it.
_LOST = (AdaptedModelNotFoundError, DataLossError, ModelChangedError)

EXPECTED_FAILED_CHECKS = dict.fromkeys(
    ("check_methods_sample_order_invariance", "check_methods_subset_invariance"),
    "in float32 a probability differs by up to 0.0001 with the other pictures of its request",
)
"""The checks of `sklearn.utils.estimator_checks` that fail, and why; the others pass."""


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Adapts a model to labelled images in `fit`, and asks it in `predict`.

    Without an `address` it starts a server for this process (`Client.local`), which all such
    classifiers share; for one with keys or TLS set the variables that `Client` names, such as
    `KSHOT_API_KEY`. `model` and `adapt_options` are those of `Client.adapt`. X is
    `(n, height, width[, channels])`, or `(n, features)` with the `image_shape` of a row, one of
    whose numbers may be -1, or paths, bytes and pictures as `Client.adapt` takes them. Arrays that
    are not uint8 are scaled: 0 is black, unless `fit` saw less, and the largest number that it saw
    is white. A `fit` that fails changes nothing.

    The adapted model is the classifier's own: the next `fit`, `close`, the end of a `with` block
    and of the classifier delete it. The support set is kept: a classifier that was copied, pickled
    or closed, or whose adapted model has expired, adapts again when it is asked.
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
        before = self.__dict__.copy()
        try:
            self._read_examples(X, y)
            own = self._adapt()
        except BaseException:
            self.__dict__ = before
            raise
        former, self._own = before.get("_own"), own
        if former is not None:
            former.discard()
        return self

    def predict(self, X: object) -> Array:  # noqa: N803 -- scikit-learn's name
        """Return the most probable class of each image (n,)."""
        probabilities = self.predict_proba(X)
        predicted: Array = self.classes_[probabilities.argmax(axis=1)]
        return predicted

    def predict_proba(self, X: object) -> npt.NDArray[np.float64]:  # noqa: N803 -- scikit-learn's name
        """Return probabilities (n, way), in the order of `classes_`."""
        self._check_fitted()
        files, numbers = divided(X)
        images = files if files is not None else self._pictures(check_queries(self, numbers))
        probabilities = self._ask(images).astype(np.float64)
        shares: npt.NDArray[np.float64] = probabilities / probabilities.sum(axis=1, keepdims=True)
        return shares

    @property
    def adapted_model_(self) -> AdaptedModel:
        """The adapted model, on its server for as long as this classifier or the handle is held."""
        self._check_fitted()
        own: OwnModel | None = self.__dict__.get("_own")
        if own is None or not own.usable:
            own = self._own = self._adapt()
        return own.handle

    def close(self) -> None:
        """Delete the adapted model, and end the connection or local server if nobody shares it."""
        own = self.__dict__.pop("_own", None)
        if own is not None:
            own.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the adapted model out, which is this object's own."""
        return {name: value for name, value in self.__dict__.items() if name != "_own"}

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 -- scikit-learn's
        """Say what X may be; `poor_score`, as rows that are no pictures teach it little."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.input_tags.three_d_array = True
        tags.classifier_tags.poor_score = True
        return tags

    def _check_fitted(self) -> None:
        if not hasattr(self, "classes_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit(X, y) first")

    def _read_examples(self, X: object, y: object) -> None:  # noqa: N803 -- scikit-learn's name
        """Set what `fit` learns from its arguments."""
        files, numbers = divided(X)
        if files is not None:
            labels = check_labels(self, files, y)
            self.range_ = None
            pictures = files
        else:
            images, labels = check_examples(self, numbers, y)
            self.range_ = levels_of(images)
            pictures = self._pictures(images)
        try:
            check_targets(labels)
            self.classes_, indices = np.unique(labels, return_inverse=True)
        except TypeError as error:
            raise InputError(
                f"y: expected labels that can be sorted, such as strings: {error}"
            ) from error
        if len(self.classes_) < 2:
            raise InputError(f"y: expected at least two classes, got one class: {self.classes_}")
        named = all(type(label) in (str, int) for label in self.classes_.tolist())
        self._support = (pictures, labels.tolist() if named else indices.tolist())

    def _pictures(self, numbers: Array) -> Array:
        return as_pictures(numbers, self.image_shape, self.range_)

    def _adapt(self) -> OwnModel:
        options = _checked_options(self.adapt_options)
        images, labels = self._support

        def adapt(client: Client) -> AdaptedModel:
            return client.adapt(images, labels, model=self.model, timeout=self.timeout, **options)

        return OwnModel(self.address, self.timeout, adapt)

    def _ask(self, images: Any) -> Array:  # noqa: ANN401 -- an array, or a list of files
        """Return the probabilities; adapt again where the server has the adapted model no more."""
        adapted = self.adapted_model_
        try:
            return self._answers(adapted, images)
        except _LOST:
            self._own = self._adapt()
            return self._answers(self._own.handle, images)

    def _answers(self, adapted: AdaptedModel, images: Any) -> Array:  # noqa: ANN401 -- as above
        """Ask in as many requests as it takes, or in one where the answers depend on each other."""
        transductive = adapted.description.options.batch_norm_mode == "transductive"
        parts = [images] if transductive else batches(images)
        answers = [adapted.predict(part, timeout=self.timeout).probabilities for part in parts]
        return np.concatenate(answers)


def _checked_options(options: object) -> AdaptOptions:
    """Return options of an adaptation, whose values `Client.adapt` checks."""
    if options is None:
        return {}
    known = AdaptOptions.__annotations__
    if not isinstance(options, Mapping) or not set(options) <= set(known):
        raise InputError(
            f"adapt_options: expected a dict with some of {', '.join(known)}, got {shown(options)}"
        )
    return cast(AdaptOptions, options)
