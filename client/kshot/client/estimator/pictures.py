"""What scikit-learn calls X, as the pictures that a server takes."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kshot.client.arrays import stack_arrays
from kshot.client.errors import InputError
from kshot.client.inputs import gather, is_tensor
from kshot.client.shrinking import is_picture
from kshot.client.values import shown

Array = npt.NDArray[Any]
Levels = tuple[float, float]
"""What is black and what is white."""
_EXPECTED = "image_shape: expected (height, width[, channels]), one of which may be -1"
_MOST_QUERIES, _MOST_BYTES = 64, 8 * 10**6  # of a request


def divided(X: Any) -> tuple[Any, Any]:  # noqa: ANN401, N803 -- scikit-learn's name
    """Return a list of image files and pictures, or else what may be numbers; None for the other.

    Raises `InputError` for one image, for none, and for arrays of images that differ in size.
    """
    if is_tensor(X) or isinstance(X, str | bytes | os.PathLike) or is_picture(X):
        return None, gather(X, "X")
    if not (isinstance(X, list | tuple | Iterator) or getattr(X, "ndim", 0) == 1):
        return None, X
    items = list(X)
    if not items:
        raise InputError("X: expected images, got none")
    if isinstance(items[0], str | bytes | os.PathLike) or is_picture(items[0]):
        return items, None
    if is_tensor(items[0]):
        items = list(gather(items, "X"))
    if all(isinstance(item, np.ndarray) and item.ndim > 1 for item in items):
        return None, stack_arrays(items, "X")
    return None, items if isinstance(X, Iterator) else X


def levels_of(images: Array) -> Levels | None:
    """Return what is black and what is white in an array; None for pixels, 0 and 255."""
    if images.dtype == np.uint8:
        return None
    return min(0.0, float(images.min())), float(images.max())


def as_pictures(images: Array, image_shape: Iterable[int] | None, levels: Levels | None) -> Array:
    """Return uint8 `(n, height, width[, channels])`; `image_shape` is that of rows.

    Raises `InputError` for rows without it, and without `levels` for what are no pixels.
    """
    if images.ndim == 2:
        images = images.reshape(len(images), *_row_shape(image_shape, images.shape[1]))
    if images.dtype == np.uint8:
        return images
    if levels is None:
        _check_pixels(images)
        return images.astype(np.uint8)
    low, high = levels
    scaled = (images.astype(np.float64) - low) * (255.0 / (high - low or 1.0))
    return scaled.clip(0, 255).round().astype(np.uint8)


def batches(images: Any) -> Iterator[Any]:  # noqa: ANN401 -- an array, or a list of files
    """Divide images, in their order, into what a server takes in one request to predict."""
    count = _MOST_QUERIES
    if isinstance(images, np.ndarray):
        count = max(1, min(count, _MOST_BYTES // max(1, images[0].nbytes)))
    for first in range(0, len(images), count):
        yield images[first : first + count]


def _row_shape(image_shape: object, feature_count: int) -> tuple[int, ...]:
    if image_shape is None:
        raise InputError(
            f"X: expected images (n, height, width[, channels]), got rows of {feature_count} "
            "numbers; pass image_shape=(height, width[, channels]), or X[None] if X is one image"
        )
    sizes = _sizes(image_shape)
    known = math.prod(size for size in sizes if size > 0)
    shape = tuple(feature_count // known if size == -1 else size for size in sizes)
    if math.prod(shape) != feature_count:
        raise InputError(
            f"image_shape: expected the shape of {feature_count} numbers, got {shown(image_shape)}"
        )
    return shape


def _sizes(image_shape: object) -> Sequence[int]:
    """Return whole numbers above 0, at most one of them -1 for what is left."""
    try:
        sizes = [operator.index(size) for size in image_shape]  # type: ignore[attr-defined]
    except TypeError as error:
        raise InputError(f"{_EXPECTED}, got {shown(image_shape)}") from error
    if len(sizes) not in (2, 3) or sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise InputError(f"{_EXPECTED}, got {shown(image_shape)}")
    return sizes


def _check_pixels(images: Array) -> None:
    low, high = images.min(), images.max()
    if images.dtype.kind not in "iu" or not 0 <= low <= high <= 255:
        raise InputError(
            f"X: expected pixels from 0 to 255 as in fit, got {images.dtype} from {low:g} to "
            f"{high:g}; convert X as for fit"
        )
