from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import ImageError, InputSpec, Rescale, Resize, Rgb, pixels, prepare, rescale

COLOR = InputSpec(
    shape=(3, 6, 8), preprocessing=(Rgb(), Resize(6, 8, "bilinear"), Rescale(1 / 255))
)


def png(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def test_one_bit_drawings_are_resized_by_nearest_neighbour_to_zeros_and_ones(
    gray_spec: InputSpec,
) -> None:
    """Omniglot's files: 105 x 105, mode 1, a white background, which stays 1."""
    drawings = np.random.default_rng(0).random((3, 105, 105)) > 0.1
    prepared = prepare([png(drawing) for drawing in drawings], gray_spec)
    wanted = [np.asarray(Image.fromarray(drawing).resize((28, 28))) for drawing in drawings]

    assert prepared.shape == (3, 1, 28, 28)
    assert prepared.dtype == np.float32
    assert set(np.unique(prepared)) == {0.0, 1.0}
    np.testing.assert_array_equal(prepared[:, 0], np.array(wanted, np.float32))


def test_uint8_arrays_and_their_files_give_the_same(gray_spec: InputSpec) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 50, 40), np.uint8)
    from_files = pixels([png(image) for image in images], gray_spec)

    np.testing.assert_array_equal(pixels(images, gray_spec), from_files)
    np.testing.assert_array_equal(pixels(images[..., None], gray_spec), from_files)


def test_images_of_the_right_size_keep_their_pixels(gray_spec: InputSpec) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28), np.uint8)

    np.testing.assert_array_equal(pixels(images, gray_spec)[:, 0], images)


def test_color_becomes_luminance_and_gray_becomes_color(gray_spec: InputSpec) -> None:
    red = np.zeros((1, 9, 9, 3), np.uint8)
    red[..., 0] = 255
    gray = np.full((1, 5, 5), 7, np.uint8)

    assert np.unique(pixels(red, gray_spec)).tolist() == [76]
    assert pixels(gray, COLOR).shape == (1, 3, 6, 8)
    assert np.unique(pixels(gray, COLOR)).tolist() == [7]


def test_channels_come_first_and_keep_their_order() -> None:
    image = np.zeros((1, 6, 8, 3), np.uint8)
    image[..., 1], image[..., 2] = 100, 200

    assert pixels(image, COLOR)[0, :, 0, 0].tolist() == [0, 100, 200]


def test_alpha_in_an_array_is_laid_over_white(gray_spec: InputSpec) -> None:
    image = np.zeros((1, 4, 4, 4), np.uint8)

    assert np.unique(pixels(image, gray_spec)).tolist() == [255]


def test_noncontiguous_arrays_are_read_as_they_look(gray_spec: InputSpec) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    turned = images.transpose(0, 2, 1)[::-1]

    np.testing.assert_array_equal(pixels(turned, gray_spec)[:, 0], turned)


def test_rescale_rounds_each_pixel_once(gray_spec: InputSpec) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    scaled = rescale(every, gray_spec)

    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled.ravel(), (np.arange(256) * (1 / 255)).astype(np.float32))
    assert scaled.max() == 1.0


def test_prepared_float32_passes_through(gray_spec: InputSpec) -> None:
    images = np.random.default_rng(0).normal(size=(2, 1, 28, 28)).astype(np.float32)

    assert prepare(images, gray_spec) is images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, 28, 28), np.float32),
            r"expected float32 shape \(n, 1, 28, 28\), got \(2, 28, 28\)",
        ),
        (np.zeros((2, 3, 28, 28), np.float32), r"expected float32 shape \(n, 1, 28, 28\)"),
        (np.zeros((0, 1, 28, 28), np.float32), "expected at least 1 image, got 0"),
        (np.zeros((2, 1, 28, 28), np.float64), "expected dtype uint8 or float32, got float64"),
        (np.zeros((2, 28, 28), np.int32), "expected dtype uint8 or float32, got int32"),
        (
            np.zeros((28, 28), np.uint8),
            r"expected uint8 shape \(n, height, width\) .*, got \(28, 28\)",
        ),
        (np.zeros((2, 28, 28, 2), np.uint8), r"expected .* 1 \| 3 \| 4"),
        (np.zeros((0, 28, 28), np.uint8), "at least 1 image"),
        (np.zeros((1, 0, 28), np.uint8), "1 pixel"),
        ([], "expected at least 1 image, got 0"),
    ],
)
def test_refuses_arrays_that_do_not_fit(
    gray_spec: InputSpec,
    images: np.ndarray[tuple[int, ...], np.dtype[np.generic]] | list[bytes],
    message: str,
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        prepare(images, gray_spec)

    assert [problem.index for problem in caught.value.problems] == [None]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_every_image_that_is_not_finite_is_named(gray_spec: InputSpec, value: float) -> None:
    images = np.zeros((5, 1, 28, 28), np.float32)
    images[[1, 4], 0, 3, 3] = value

    with pytest.raises(ImageError, match=r"image 1: .*; image 4: .*not finite") as caught:
        prepare(images, gray_spec)

    assert [problem.index for problem in caught.value.problems] == [1, 4]


def test_every_file_that_is_wrong_is_named(gray_spec: InputSpec) -> None:
    good = png(np.zeros((4, 4), np.uint8))

    with pytest.raises(ImageError) as caught:
        prepare([good, b"words", good, good[:40]], gray_spec)

    assert [problem.index for problem in caught.value.problems] == [1, 3]
    assert str(caught.value).startswith("image 1: is not a PNG, JPEG or WebP image; image 3: ")


VECTORS = InputSpec((5, 1, 1), ())


def test_vectors_are_prepared_already() -> None:
    vectors = np.arange(10, dtype=np.float32).reshape(2, 5)

    for given in (vectors, vectors[:, :, None, None]):
        np.testing.assert_array_equal(prepare(given, VECTORS), vectors[:, :, None, None])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (np.zeros((2, 4), np.float32), r"expected float32 shape \(n, 5\), got \(2, 4\)"),
        (np.zeros((2, 4, 4), np.uint8), r"expected float32 vectors \(n, 5\), got images"),
        ([b"png"], r"expected float32 vectors \(n, 5\), got images"),
        (np.full((2, 5), np.nan, np.float32), "image 0: has values that are not finite"),
    ],
)
def test_other_vectors_are_refused(given: Any, problem: str) -> None:  # noqa: ANN401 -- forms differ
    with pytest.raises(ImageError, match=problem):
        prepare(given, VECTORS)
