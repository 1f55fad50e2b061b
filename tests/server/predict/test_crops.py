from __future__ import annotations

import numpy as np
import pytest

from kshot.server.predict.crops import cut, draw_windows

SHAPE = (3, 40, 60)


def test_windows_lie_inside_and_have_the_images_form() -> None:
    windows = np.array(draw_windows(2000, SHAPE, seed=3))
    left, upper, right, lower = windows.T
    shares = (right - left) / 60

    np.testing.assert_allclose(shares, (lower - upper) / 40)
    assert windows.min() >= 0 and right.max() <= 60 and lower.max() <= 40
    assert 0.72 <= shares.min() < 0.73 and 0.99 < shares.max() <= 1
    # Any place: the room beside a window is divided evenly.
    assert np.mean(left / np.maximum(60 - (right - left), 1e-9)) == pytest.approx(0.5, abs=0.03)
    assert np.mean(upper / np.maximum(40 - (lower - upper), 1e-9)) == pytest.approx(0.5, abs=0.03)


def test_the_seed_decides_the_windows() -> None:
    assert draw_windows(4, SHAPE, seed=1) == draw_windows(4, SHAPE, seed=1)
    assert draw_windows(4, SHAPE, seed=1) != draw_windows(4, SHAPE, seed=2)


def test_a_window_is_enlarged_bilinearly() -> None:
    """A slope stays a slope, steeper by the share of the window; channels stay apart."""
    rows, columns = np.mgrid[0:40, 0:60].astype(np.float32) + np.float32(0.5)
    image = np.stack([columns, rows, -3 * columns])[None]
    (crop,) = cut(image, [(6.0, 4.5, 51.0, 34.5)])  # three quarters of the sides

    inside = slice(2, -2)
    wanted = np.stack([6 + 0.75 * columns, 4.5 + 0.75 * rows, -3 * (6 + 0.75 * columns)])
    assert crop.shape == SHAPE and crop.dtype == np.float32
    np.testing.assert_allclose(
        crop[:, inside, inside], wanted[:, inside, inside], atol=1e-3, rtol=1e-4
    )


def test_a_whole_window_changes_nothing() -> None:
    images = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)

    np.testing.assert_allclose(cut(images, [(0, 0, 60, 40)] * 2), images, atol=1e-6)
