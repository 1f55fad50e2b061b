from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kshot.bundle.pictures import apply_step
from kshot.bundle.steps import Grayscale, Ink, Polarity, Reduce, Resize, Square

RESIZE = Resize(8, 8, "box")


def framed(ground: int, ink: int) -> Image.Image:
    picture = Image.new("L", (20, 10), ground)
    picture.paste(ink, (5, 3, 15, 7))
    return picture


@pytest.mark.parametrize(("ground", "ink"), [(250, 10), (10, 250)])
def test_polarity_gives_the_named_ground(ground: int, ink: int) -> None:
    light = np.asarray(apply_step(framed(ground, ink), Polarity("light"), RESIZE))
    dark = np.asarray(apply_step(framed(ground, ink), Polarity("dark"), RESIZE))

    assert light[0, 0] > 127 > light[5, 10]
    np.testing.assert_array_equal(dark, 255 - light)


def test_a_blank_image_takes_the_named_ground() -> None:
    dark = apply_step(framed(255, 255), Polarity("dark"), RESIZE)
    light = apply_step(framed(255, 255), Polarity("light"), RESIZE)

    assert (dark.getextrema(), light.getextrema()) == ((0, 0), (255, 255))


def test_square_crops_the_middle() -> None:
    picture = Image.fromarray(np.arange(20, dtype=np.uint8)[None].repeat(10, axis=0))
    cropped = apply_step(picture, Square("crop"), RESIZE)

    np.testing.assert_array_equal(np.asarray(cropped)[0], np.arange(5, 15))


def test_square_pads_with_the_borders_color() -> None:
    picture = Image.new("RGB", (4, 10), (10, 200, 30))
    picture.paste((0, 0, 0), (1, 2, 3, 8))
    padded = np.asarray(apply_step(picture, Square("pad"), RESIZE))

    assert padded.shape == (10, 10, 3)
    np.testing.assert_array_equal(padded[:, 3:7], np.asarray(picture))
    assert np.unique(padded[:, :3].reshape(-1, 3), axis=0).tolist() == [[10, 200, 30]]


def test_padding_a_strip_needs_no_large_square() -> None:
    assert max(apply_step(Image.new("L", (60_000, 3)), Square("pad"), RESIZE).size) < 2 * 4 * 8


def test_reduce_averages_what_is_larger() -> None:
    stripes = np.zeros((40, 30), np.uint8)
    stripes[::2] = 200
    reduced = apply_step(Image.fromarray(stripes), Reduce(20, 60), RESIZE)

    assert reduced.size == (30, 20)
    assert np.unique(np.asarray(reduced)).tolist() == [100]
    assert apply_step(Image.new("L", (9, 9)), Reduce(20, 60), RESIZE).size == (9, 9)


def test_ink_is_cut_and_other_steps_leave_the_picture() -> None:
    picture = framed(250, 10)

    assert apply_step(picture, Grayscale(), RESIZE) is picture
    assert apply_step(picture, Ink(0.0), RESIZE).size == (30, 30)  # enlarged three times
