"""Rows and arrays of any numbers become pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kshot.client import InputError
from kshot.client.estimator.pictures import as_pictures, batches, divided, levels_of


@pytest.mark.parametrize(
    ("image_shape", "expected"),
    [((2, 6), (2, 6)), ([-1, 2, 3], (2, 2, 3)), ((1, -1), (1, 12)), (np.array([3, 4]), (3, 4))],
)
def test_rows_have_the_shape_of_a_picture(image_shape: Any, expected: tuple[int, ...]) -> None:  # noqa: ANN401 -- as callers give it
    rows = np.arange(24, dtype=np.uint8).reshape(2, 12)

    assert as_pictures(rows, image_shape, None).shape == (2, *expected)


@pytest.mark.parametrize(
    "image_shape", [8, "8x8", (12,), (-1, -1), (0, -1), (-1, 5), (3, 5), (2.0, 6), (2, 2, 3, 1)]
)
def test_a_shape_that_fits_no_row_is_refused(image_shape: Any) -> None:  # noqa: ANN401 -- as callers give it
    with pytest.raises(InputError, match="image_shape: expected"):
        as_pictures(np.zeros((2, 12)), image_shape, (0, 1))


def test_numbers_are_scaled_by_those_of_fit() -> None:
    levels = levels_of(np.array([[-1.0, 3.0]]))

    assert levels == (-1, 3)
    assert as_pictures(np.array([[-2.0, 1.0, 3.0]]), (1, 3), levels).tolist() == [[[0, 128, 255]]]
    assert levels_of(np.array([[2.0, 3.0]])) == (0, 3)
    assert as_pictures(np.zeros((1, 2)), (1, 2), levels_of(np.zeros((1, 2)))).max() == 0


def test_after_pixels_only_pixels_are_taken() -> None:
    """Shares of white would all be black beside pixels."""
    levels = levels_of(np.zeros((1, 2), np.uint8))

    assert levels is None
    assert as_pictures(np.array([[0, 255]]), (1, 2), levels).dtype == np.uint8
    with pytest.raises(InputError, match="pixels from 0 to 255 as in fit, got float64 from 0 to 1"):
        as_pictures(np.array([[0.0, 1.0]]), (1, 2), levels)
    with pytest.raises(InputError, match="got int64 from 0 to 256"):
        as_pictures(np.array([[0, 256]]), (1, 2), levels)


@pytest.mark.parametrize(
    ("images", "sizes"),
    [
        (np.zeros((130, 2, 2), np.uint8), [64, 64, 2]),
        (np.zeros((3, 2000, 2000), np.uint8), [2, 1]),
        (np.zeros((2, 3000, 3000), np.uint8), [1, 1]),
        (["a.png"] * 65, [64, 1]),
    ],
)
def test_many_images_are_asked_in_parts(images: Any, sizes: list[int]) -> None:  # noqa: ANN401 -- array or list
    assert [len(part) for part in batches(images)] == sizes


def test_files_are_told_from_numbers() -> None:
    picture = Image.new("L", (2, 2))
    files = [["a.png"], (b"PNG",), np.array(["a.png"]), [picture], np.array(["a.png"], object)]
    for X in files:  # noqa: N806 -- scikit-learn's name
        assert divided(X) == (list(X), None)

    pixels = np.zeros((2, 3, 3), np.uint8)
    for numbers in (pixels, pixels.tolist(), [1, 2], np.zeros(3)):
        assert divided(numbers)[0] is None
        assert divided(numbers)[1] is numbers
    assert divided(iter(["a.png"])) == (["a.png"], None)
    assert divided(iter([[[1]]])) == (None, [[[1]]])
    stacked = divided(list(pixels))[1]
    assert np.array_equal(stacked.reshape(pixels.shape), pixels)
    with pytest.raises(InputError, match="pass pictures instead"):
        divided([pixels[0], np.zeros((4, 4), np.uint8)])


@pytest.mark.parametrize("X", ["mine", Path("mine"), b"PNG", Image.new("L", (2, 2)), [], iter([])])
def test_one_image_and_none_are_refused(X: object) -> None:  # noqa: N803 -- scikit-learn's name
    with pytest.raises(InputError, match=r"X: expected .*(put it into a list|got none)"):
        divided(X)
