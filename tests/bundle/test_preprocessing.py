from __future__ import annotations

import hashlib
import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from threading import BrokenBarrierError
from typing import Any, Literal
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import (
    Grayscale,
    ImageError,
    Ink,
    InputSpec,
    Normalize,
    Polarity,
    PreprocessingStep,
    Reduce,
    Rescale,
    Resize,
    Rgb,
    Square,
    builtin_bundle,
    draft_side,
    load_bundle,
    pixels,
    prepare,
    preprocessing,
    rescale,
    unscaled,
    useful_side,
    value_table,
)

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


def test_no_pictures_become_none(gray_spec: InputSpec) -> None:
    for size in ((28, 28), (5, 9)):
        assert preprocessing.fit_array(np.zeros((0, *size), np.uint8), gray_spec).shape == (
            0,
            *gray_spec.shape,
        )


def test_noncontiguous_arrays_are_read_as_they_look(gray_spec: InputSpec) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    turned = images.transpose(0, 2, 1)[::-1]

    np.testing.assert_array_equal(pixels(turned, gray_spec)[:, 0], turned)


Method = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]


def _spec(channels: int, method: Method, *steps: PreprocessingStep) -> InputSpec:
    colour = Grayscale() if channels == 1 else Rgb()
    resize = Resize(height=28, width=20, method=method)
    return InputSpec((channels, 28, 20), (colour, *steps, resize, Rescale(factor=1 / 255)))


@pytest.mark.parametrize("size", [(28, 20), (1, 1), (28, 50), (105, 20), (60, 60), (50, 3)])
@pytest.mark.parametrize("method", ["nearest", "box", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("channels", "steps"),
    [
        (1, (Polarity(ground="light"), Reduce(height=40, width=30))),
        (1, (Square(by="pad"),)),
        (3, (Reduce(height=40, width=30), Square(by="crop"))),
        (3, (Square(by="pad"),)),
        (1, (Ink(margin=0.1),)),
    ],
)
def test_pictures_of_an_array_become_what_each_becomes_alone(
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    method: Method,
    channels: int,
    steps: tuple[PreprocessingStep, ...],
) -> None:
    """Bit for bit, where all pixels are alike and in the last part of a large array too."""
    monkeypatch.setattr(preprocessing, "_TOGETHER", 4 * size[0] * size[1] * channels)
    spec = _spec(channels, method, *steps)
    shape = (10, *size, *([3] if channels == 3 else []))
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    images[4:6], images[7:, 0] = 128, 250
    images[8:] //= 3
    alone = np.concatenate([prepare([png(image)], spec) for image in images])

    together = Mock(wraps=preprocessing._fit_together)
    monkeypatch.setattr(preprocessing, "_fit_together", together)
    np.testing.assert_array_equal(prepare(images, spec), alone)
    if channels == 1:
        np.testing.assert_array_equal(prepare(images[..., None], spec), alone)
    one_side = size[0] == 28 or size[1] == 20
    whole = size[0] <= 40 or size[1] <= 30
    if not any(isinstance(step, Ink | Square) for step in steps) and whole:
        assert together.called == (one_side or method == "nearest")


@pytest.mark.parametrize(("side", "meet"), [(8, False), (300, True)])
def test_threads_take_turns_at_small_pictures(
    monkeypatch: pytest.MonkeyPatch, side: int, meet: bool
) -> None:
    inside = threading.Barrier(2)

    def fit(_picture: object, _spec: object) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        inside.wait(60 if meet else 0.2)
        return np.zeros((1, 28, 20), np.uint8)

    monkeypatch.setattr(preprocessing, "fit", fit)
    images, spec = np.zeros((1, side, side), np.uint8), _spec(1, "box", Ink(margin=0.1))
    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(preprocessing.fit_array, images, spec) for _ in range(2)]

    assert all(isinstance(job.exception(), BrokenBarrierError) is not meet for job in jobs)


def test_a_call_may_end_between_images(gray_spec: InputSpec) -> None:
    class EndedError(Exception):
        pass

    def end() -> None:
        raise EndedError

    for images in (np.zeros((2, 50, 60), np.uint8), [png(np.zeros((5, 5), np.uint8))]):
        with pytest.raises(EndedError):
            prepare(images, gray_spec, between=end)


def test_rescale_rounds_each_pixel_once(gray_spec: InputSpec) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    scaled = rescale(every, gray_spec)

    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled.ravel(), (np.arange(256) * (1 / 255)).astype(np.float32))
    assert scaled.max() == 1.0


def test_prepared_float32_passes_through(gray_spec: InputSpec) -> None:
    images = np.random.default_rng(0).random((2, 1, 28, 28), np.float32)

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


DIGESTS = {
    "omniglot@1": "85da7306baefe47c04b851d122cfc198526d49beec200d38c7db1849246542bd",
    "omniglot-best": "85da7306baefe47c04b851d122cfc198526d49beec200d38c7db1849246542bd",
    "omniglot-20way": "85da7306baefe47c04b851d122cfc198526d49beec200d38c7db1849246542bd",
    "cifar-fs": "a892b71f70d927b6b681523d00e5ba25aec4a1ef47eafd5091c92c5ec3974a58",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_bundles_of_version_1_prepare_the_same_bits_as_ever(name: str) -> None:
    """Written down before version 2 of the schema: adapted models in stores depend on them."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (3, 61, 47, 4), np.uint8)
    drawing = random.random((105, 105)) > 0.1
    files = [drawing, *noise, noise[0, ..., 0], noise[1, ..., :3]]
    spec = load_bundle(builtin_bundle(name)).manifest.input
    sent = ([png(file) for file in files], noise, noise[..., 0])
    content = b"".join(prepare(images, spec).astype("<f4").tobytes() for images in sent)

    assert hashlib.sha256(content).hexdigest() == DIGESTS[name]


def stepping(*steps: PreprocessingStep, channels: int = 1) -> InputSpec:
    color = Grayscale() if channels == 1 else Rgb()
    return InputSpec((channels, 28, 28), (color, *steps, Rescale(1 / 255)))


def test_normalize_gives_each_channel_its_own_numbers() -> None:
    steps = (Rgb(), Resize(6, 8, "box"), Normalize((127.0, 0.3, -9.0), (128.0, 3.0, 0.7)))
    spec = InputSpec((3, 6, 8), steps)
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)
    wanted = (images - np.array([127, 0.3, -9])) / np.array([128, 3, 0.7])

    np.testing.assert_array_equal(
        prepare(images, spec), wanted.astype(np.float32).transpose(0, 3, 1, 2)
    )
    assert value_table(spec).shape == (3, 256)


def test_the_strongest_ink_is_255_behind_the_resize() -> None:
    thin = np.full((1, 900, 700), 240, np.uint8)
    thin[0, 100:800, 300:303] = 30
    thin[0, 450:453, 100:600] = 30
    spec = stepping(Ink(0.1), Resize(28, 28, "box"))

    assert pixels(thin, spec).max() == 255
    assert pixels(thin, spec)[0, 0, 0, 0] == 0
    np.testing.assert_array_equal(pixels(255 - thin, spec), pixels(thin, spec))


def test_a_reduction_keeps_what_nearest_neighbour_loses() -> None:
    lines = np.zeros((1, 280, 280), np.uint8)
    lines[0, :, ::10] = 255
    nearest = Resize(28, 28, "nearest")

    assert np.unique(pixels(lines, stepping(nearest))).tolist() == [0]
    assert np.unique(pixels(lines, stepping(Reduce(28, 28), nearest))).tolist() == [25]


@pytest.mark.parametrize(
    ("spec", "side", "draft"),
    [
        (stepping(Resize(28, 28, "nearest")), 0, 0),
        (stepping(Resize(28, 28, "bilinear")), 512, 0),
        (stepping(Square("crop"), Resize(28, 28, "nearest")), 0, 0),
        (stepping(Reduce(28, 28), Resize(28, 28, "nearest")), 512, 512),
        (stepping(Reduce(300, 250), Resize(28, 28, "nearest")), 900, 900),
        (stepping(Ink(0.1), Resize(28, 28, "box")), 1024, 1024),
        (stepping(Square("pad"), Resize(224, 224, "bicubic"), channels=3), 672, 672),
        (InputSpec((64, 1, 1), ()), 0, 0),
    ],
)
def test_the_useful_side_is_a_few_times_the_inputs(spec: InputSpec, side: int, draft: int) -> None:
    assert useful_side(spec) == side
    assert draft_side(spec) == draft


def test_pictures_reduced_to_the_useful_side_give_nearly_the_same() -> None:
    """What a client shrinks before it sends, and what a JPEG is decoded to."""
    spec = stepping(Square("pad"), Resize(28, 28, "box"), channels=3)
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (4, 3, 3), np.uint8))
    photograph = small.resize((1200, 1600), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    photograph.save(stream, "JPEG", quality=95)
    half = np.asarray(photograph.resize((512, 683), Image.Resampling.BOX))[None]
    whole = pixels(np.asarray(photograph)[None], spec).astype(int)

    assert np.abs(pixels([stream.getvalue()], spec) - whole).mean() < 3
    assert np.abs(pixels(half, spec) - whole).mean() < 3


def test_pixels_of_0_and_1_are_told_from_pictures(gray_spec: InputSpec) -> None:
    bits = np.zeros((3, 28, 28), np.uint8)
    bits[1, 3:9] = 1

    with pytest.raises(ImageError, match="from 0 to 255, got only 0 and 1; multiply by 255"):
        prepare(bits, gray_spec)
    assert prepare(bits[[0, 2]], gray_spec).max() == 0  # black
    assert prepare(np.ones((2, 28, 28), np.uint8), gray_spec).max() < 0.01  # one shade
    bits[0, 5, 5] = 2
    prepare(bits, gray_spec)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-2.1, 2.6), (0, 1.2)])
def test_prepared_values_that_no_pixel_becomes_are_refused(
    gray_spec: InputSpec, low: float, high: float
) -> None:
    images = np.zeros((3, 1, 28, 28), np.float32)
    images[1, 0, 0, :2] = low, high

    with pytest.raises(ImageError) as caught:
        prepare(images, gray_spec)

    assert str(caught.value) == (
        f"image 1: expected prepared values from 0 to 1, got {low:g} to {high:g}; "
        "send UINT8 pixels, or divide them by 255"
    )


NORMALIZED = (Rgb(), Resize(2, 2, "box"), Normalize((100.0, 120.0, 140.0), (50.0, 60.0, 70.0)))
LEVELS = (Grayscale(), Resize(2, 2, "box"), Rescale(0.5))


@pytest.mark.parametrize(
    ("steps", "channel", "value", "message"),
    [
        (NORMALIZED, 0, 3.2, ""),  # 255 becomes 3.1, and resampling may add a little
        (
            NORMALIZED,
            0,
            3.5,
            "expected prepared values from -2 to 3.1, got 0 to 3.5; send UINT8 pixels",
        ),
        (NORMALIZED, 2, 3.2, "subtract the mean of the bundle's manifest and divide by its std"),
        (LEVELS, 0, 127.0, ""),
        (LEVELS, 0, 255.0, "from 0 to 127.5, got 0 to 255; send UINT8 pixels, or multiply them"),
    ],
)
def test_prepared_values_are_checked_by_channel(
    steps: tuple[PreprocessingStep, ...], channel: int, value: float, message: str
) -> None:
    spec = InputSpec((3 if steps is NORMALIZED else 1, 2, 2), steps)
    images = np.zeros((1, *spec.shape), np.float32)
    images[0, channel, 0, 0] = value

    if not message:
        np.testing.assert_array_equal(prepare(images, spec), images)
        return
    with pytest.raises(ImageError, match=re.escape(message)):
        prepare(images, spec)


def test_values_from_0_to_1_are_told_where_pixels_become_more(gray_spec: InputSpec) -> None:
    images = np.random.default_rng(0).random((2, 3, 2, 2), np.float32)

    warning = unscaled(images, InputSpec((3, 2, 2), NORMALIZED))
    assert warning.startswith("all values are from 0 to 1, but pixels become -2 to 3.1 for")
    assert unscaled(images[:, :1], InputSpec((1, 2, 2), LEVELS))
    assert not unscaled(images[:, :1], gray_spec)
    assert not unscaled(images * 1.5, InputSpec((3, 2, 2), NORMALIZED))
    assert not unscaled(images - 0.5, InputSpec((3, 2, 2), NORMALIZED))
    assert not unscaled(images[..., :1, :1], InputSpec((3, 1, 1), ()))


def test_resampling_may_pass_the_ends_a_little(gray_spec: InputSpec) -> None:
    prepare(np.full((1, 1, 28, 28), 1.04, np.float32), gray_spec)


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
    assert str(caught.value).startswith(
        "image 1: is text, not a PNG, JPEG or WebP image; convert it first; "
    )


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
