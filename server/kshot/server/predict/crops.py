"""Crops of prepared images, which a tail sees beside the whole ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Window = tuple[float, float, float, float]

_LEAST_SIDE = 0.72


def draw_windows(count: int, shape: tuple[int, ...], seed: int) -> list[Window]:
    """Draw windows of images `(channels, height, width)`: left, upper, right, lower.

    Each has 0.72 to 1 of both sides, at any place.
    """
    _, height, width = shape
    drawn = np.random.default_rng(seed).random((count, 3))
    sides = _LEAST_SIDE + (1 - _LEAST_SIDE) * drawn[:, :1]
    first = drawn[:, 1:] * (1 - sides)
    corners = np.hstack([first, np.minimum(first + sides, 1)]) * (width, height, width, height)
    return [(left, upper, right, lower) for left, upper, right, lower in corners.tolist()]


def cut(images: Floats, windows: Sequence[Window]) -> Floats:
    """Enlarge a window of each image `(n, channels, height, width)` to its size, bilinearly."""
    _, _, height, width = images.shape
    crops = np.empty_like(images)
    for image, window, crop in zip(images, windows, crops, strict=True):
        for channel, into in zip(image, crop, strict=True):
            picture = Image.fromarray(np.ascontiguousarray(channel))
            size = (width, height)
            into[:] = picture.resize(size, Image.Resampling.BILINEAR, box=window)
    return crops
