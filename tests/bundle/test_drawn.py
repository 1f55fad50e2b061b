"""Drawings are told from other pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from kshot.bundle import are_drawings

Numbers = np.ndarray[Any, Any]


def strokes(count: int, ground: float) -> Numbers:
    pictures = np.full((count, 3, 32, 32), ground, np.float32)
    pictures[:, :, 6:26, 14:18] = 1 - ground
    return pictures


def textures(count: int) -> Numbers:
    return np.random.default_rng(0).random((count, 3, 32, 32), np.float32)


def test_ink_on_a_plain_ground_is_a_drawing() -> None:
    assert are_drawings(strokes(4, 1.0))
    assert are_drawings(strokes(4, 0.1))


def test_colour_or_no_plain_ground_is_none() -> None:
    """Such as a thing in front of a white wall, and gray photographs."""
    coloured = strokes(4, 1.0)
    coloured[:, 0, 3:29, 5:27] = 0.9
    coloured[:, 2, 3:29, 5:27] = 0.2
    gray = textures(4)
    gray[:] = gray[:, :1]

    assert not are_drawings(coloured)
    assert not are_drawings(gray)
    assert not are_drawings(textures(4))


def test_ink_in_a_corner_is_no_drawing() -> None:
    """Such as a spectrogram, whose sound reaches the border."""
    spectra = strokes(4, 0.0)
    spectra[:, :, 28:, :14] = 0.8

    assert not are_drawings(spectra)


def test_most_pictures_decide() -> None:
    assert are_drawings(np.concatenate([strokes(3, 1.0), textures(2)]))
    assert not are_drawings(np.concatenate([strokes(2, 1.0), textures(3)]))
