import io

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import ImageError
from kshot.trainer.rivals.features import (
    colour_histogram,
    features_of,
    gradient_histograms,
    gray_pixels,
    rgb_pixels,
)

RED = Image.new("RGB", (40, 20), (255, 0, 0))


def encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def test_pixels_are_squashed_and_scaled() -> None:
    gray = Image.new("L", (3, 90), 51)

    assert np.allclose(gray_pixels(gray), np.full(28 * 28, 0.2))
    assert np.allclose(rgb_pixels(gray), np.full(28 * 28 * 3, 0.2))
    assert np.allclose(rgb_pixels(RED).reshape(28, 28, 3), [1, 0, 0])


def test_histogram_counts_joint_and_single_colours() -> None:
    shares = colour_histogram(RED) ** 2

    assert shares.sum() == pytest.approx(1)
    # the last joint bin of red, then red's highest, green's and blue's lowest bins
    assert np.flatnonzero(shares).tolist() == [3 * 16, 64 + 15, 64 + 16, 64 + 32]
    assert np.allclose(shares[[3 * 16, 64 + 15]], 1 / 4)


def test_gradients_do_not_see_inversion() -> None:
    drawing = np.zeros((50, 50), np.uint8)
    drawing[10:40, 20:25] = 255
    found = gradient_histograms(Image.fromarray(drawing))

    assert found.shape == (324,)
    assert found.any()
    assert np.allclose(found, gradient_histograms(Image.fromarray(255 - drawing)))


def test_features_of_encoded_pictures() -> None:
    pictures = [encoded(RED), encoded(Image.new("L", (5, 5)))]

    assert features_of(pictures, gray_pixels).shape == (2, 784)
    with pytest.raises(ImageError, match="not a PNG"):
        features_of([b"no picture"], gray_pixels)
