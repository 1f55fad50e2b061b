"""What trivial classifiers see of a picture: a few numbers, computed without learning."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from kshot.bundle import decode_image

Features = npt.NDArray[np.float64]

SIDE = 28
HOG_SIDE, HOG_CELL, HOG_BLOCK, HOG_ORIENTATIONS = 32, 8, 2, 9
# Bins of a channel: in the joint histogram, and in each channel's own.
JOINT_BINS, MARGINAL_BINS = 4, 16


def gray_pixels(picture: Image.Image) -> Features:
    """Squash a picture to 28x28 gray, bilinear: `(784,)` in 0..1."""
    return _squashed(picture, "L", SIDE).ravel() / 255


def rgb_pixels(picture: Image.Image) -> Features:
    """Squash a picture to 28x28 RGB, bilinear: `(2352,)` in 0..1."""
    return _squashed(picture, "RGB", SIDE).ravel() / 255


def gradient_histograms(picture: Image.Image) -> Features:
    """Describe a picture squashed to 32x32 gray by HOG (Dalal and Triggs 2005): `(324,)`.

    9 orientations in cells of 8x8 pixels, normalized in blocks of 2x2 cells.
    """
    from skimage.feature import hog

    found: Features = hog(
        _squashed(picture, "L", HOG_SIDE),
        orientations=HOG_ORIENTATIONS,
        pixels_per_cell=(HOG_CELL, HOG_CELL),
        cells_per_block=(HOG_BLOCK, HOG_BLOCK),
    )
    return found


def colour_histogram(picture: Image.Image) -> Features:
    """Count a picture's colours: `(112,)`, the square root of shares that sum to 1.

    4x4x4 joint bins of RGB, then 16 bins of each channel, at the picture's own size.
    """
    values = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(np.int64)
    coarse = values * JOINT_BINS // 256
    joint = (coarse[:, 0] * JOINT_BINS + coarse[:, 1]) * JOINT_BINS + coarse[:, 2]
    fine = values * MARGINAL_BINS // 256
    counts = [
        np.bincount(joint, minlength=JOINT_BINS**3),
        *(np.bincount(channel, minlength=MARGINAL_BINS) for channel in fine.T),
    ]
    joined: Features = np.concatenate(counts).astype(np.float64)
    shares: Features = np.sqrt(joined / joined.sum())
    return shares


def features_of(pictures: Sequence[bytes], describe: Callable[[Image.Image], Features]) -> Features:
    """Describe encoded pictures: `(n, features)`; raises `ImageError` as `decode_image` does."""
    return np.stack([describe(decode_image(data)) for data in pictures])


def _squashed(picture: Image.Image, mode: str, side: int) -> Features:
    squashed = picture.convert(mode).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(squashed, dtype=np.float64)
