"""What is kept of a support set comes back bit for bit, in as few bytes as possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kshot.bundle import (
    Grayscale,
    InputSpec,
    Normalize,
    Rescale,
    Resize,
    Rgb,
    rescale,
)
from kshot.server.store.adapted_model import AdaptedArrays
from kshot.server.store.content import arrays_bytes, parse_arrays
from kshot.server.store.kept_support import KeptSupport, PackedImages

MakeArrays = Callable[..., AdaptedArrays]

GRAY = InputSpec((1, 4, 4), (Grayscale(), Resize(4, 4, "nearest"), Rescale(1 / 255)))
COLOUR = InputSpec(
    (3, 4, 4),
    (
        Rgb(),
        Resize(4, 4, "bilinear"),
        Normalize((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ),
)
VECTORS = InputSpec((6, 1, 1), ())


def pictures(spec: InputSpec, count: int = 40) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, *spec.shape), dtype=np.uint8)


@pytest.mark.parametrize("spec", [GRAY, COLOUR])
def test_pixels_are_kept_as_bytes(spec: InputSpec) -> None:
    given = pictures(spec)
    images = rescale(given, spec)

    packed = PackedImages.of(images, spec)

    np.testing.assert_array_equal(packed.numbers, given)
    assert packed.size_bytes == images.nbytes // 4
    assert packed.unpacked().tobytes() == images.tobytes()


@pytest.mark.parametrize("spec", [GRAY, COLOUR, VECTORS])
@pytest.mark.parametrize("value", [0.3, -0.0])
def test_other_numbers_are_kept_as_they_are(spec: InputSpec, value: float) -> None:
    images = np.random.default_rng(1).random((3, *spec.shape), np.float32)
    if spec.preprocessing:
        images = rescale(pictures(spec, 3), spec)
    images[2, 0, 0, 0] = value

    packed = PackedImages.of(images, spec)

    assert packed.numbers.dtype == np.float32
    assert packed.unpacked().tobytes() == images.tobytes()
    assert not np.shares_memory(packed.numbers, images)


@pytest.mark.parametrize("spec", [None, GRAY, VECTORS])
def test_a_file_has_the_examples(make_arrays: MakeArrays, spec: InputSpec | None) -> None:
    """Their images are those of `support` where nothing else is packed."""
    arrays = make_arrays()
    images, packed = arrays.support, None
    if spec is not None:
        images = rescale(pictures(spec, 5), GRAY) if spec is GRAY else images.reshape(5, 16, 1, 1)
        packed = PackedImages.of(images, spec)
    classes = np.array([4, 0, 1, 2, 3], np.int32)
    kept = replace(arrays, examples=KeptSupport(classes, packed))

    found = parse_arrays(arrays_bytes(kept))

    got = found.kept_images()
    assert got is not None
    assert got[0].unpacked().tobytes() == images.tobytes()
    assert got[0].unpacked().shape == images.shape
    assert got[1] == (4, 0, 1, 2, 3)
    assert parse_arrays(arrays_bytes(arrays)).kept_images() is None
