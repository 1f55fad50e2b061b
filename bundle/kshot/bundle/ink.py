"""A drawing on its ground: which is which, and the square around the ink."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image

MAX_SIDE = 512
"""Drawings with a longer side of twice this or more are reduced by area first."""
_MIN_SIDE = 48
_MIN_CONTRAST = 13
_STRONG = 0.4


def ground_of(picture: Image.Image) -> tuple[int, ...]:
    """Return the median of the border's pixels: a number 0..255 for each channel of L or RGB."""
    values = np.asarray(picture)
    border = np.concatenate((values[0], values[-1], values[:, 0], values[:, -1]))
    return tuple(int(value) for value in np.atleast_1d(np.median(border, axis=0)))


def has_light_ground(gray: Image.Image) -> bool:
    """Return whether the ground of an image in mode L is lighter than the middle of its range."""
    (ground,), (darkest, lightest) = ground_of(gray), _range(gray)
    middle = 127.5 if darkest == lightest else (darkest + lightest) / 2
    return ground > middle


def have_light_ground(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return what `has_light_ground` does of images `(n, height, width)` in mode L: `(n,)`."""
    borders = np.concatenate((images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]), 1)
    ground = np.median(borders, axis=1).astype(np.int64)
    darkest, lightest = images.min(axis=(1, 2)), images.max(axis=(1, 2))
    middle = (darkest.astype(np.float64) + lightest) / 2
    light: npt.NDArray[np.bool_] = ground > np.where(darkest == lightest, 127.5, middle)
    return light


def cut_ink(gray: Image.Image, margin: float) -> Image.Image:
    """Return the square around the ink of an image in mode L: ground 0, strongest ink 255.

    `margin` is a part of the ink's longer side. An image with less than 5 % of contrast to its
    ground is blank and becomes 0.
    """
    gray = reduced(gray, MAX_SIDE)
    strength = _strength(gray)
    if max(strength.size) < _MIN_SIDE:
        factor = -(-_MIN_SIDE // max(strength.size))
        size = (strength.width * factor, strength.height * factor)
        strength = strength.resize(size, Image.Resampling.BICUBIC)
    most = _range(strength)[1]
    threshold = _STRONG * most
    box = strength.point([255 * (value > threshold) for value in range(256)]).getbbox()
    if box is None:
        return strength.resize((_MIN_SIDE, _MIN_SIDE))
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    side += 2 * round(margin * side)
    # Behind its edges, the image goes on as 0.
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    return strength.crop((x, y, x + side, y + side))


def strengthened(gray: Image.Image) -> Image.Image:
    """Return an image of ink in mode L with its strongest ink at 255."""
    most = _range(gray)[1]
    return gray.point([min(255, round(255 * value / max(most, 1))) for value in range(256)])


def reduced(picture: Image.Image, side: int) -> Image.Image:
    """Reduce by area, by a whole factor, so that the longer side is less than twice `side`."""
    factor = max(picture.size) // side
    return picture.reduce(factor) if factor > 1 else picture


def _range(gray: Image.Image) -> tuple[int, int]:
    """Return the least and the greatest value of an image in mode L."""
    return cast(tuple[int, int], gray.getextrema())


def _strength(gray: Image.Image) -> Image.Image:
    """Return how far pixels are from the ground, towards the ink; 255 is the strongest ink."""
    (ground,), (darkest, lightest) = ground_of(gray), _range(gray)
    sign, most = (-1, ground - darkest) if has_light_ground(gray) else (1, lightest - ground)
    if most < _MIN_CONTRAST:
        return Image.new("L", gray.size)
    distances = (sign * (value - ground) for value in range(256))
    return gray.point([min(255, max(0, round(255 * each / most))) for each in distances])
