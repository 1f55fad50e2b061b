from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from kshot.bundle.ink import cut_ink, ground_of, has_light_ground, reduced, strengthened


def drawing(side: int = 100, paper: int = 230, ink: int = 20, pen: int = 6) -> Image.Image:
    """Draw a cross, 40 % wide and 60 % high, right of the middle."""
    picture = Image.new("L", (side, side), paper)
    draw = ImageDraw.Draw(picture)
    left, right, top, bottom = (round(part * side) for part in (0.5, 0.9, 0.2, 0.8))
    middle = (left + right) // 2, (top + bottom) // 2
    draw.line((left, middle[1], right, middle[1]), ink, pen)
    draw.line((middle[0], top, middle[0], bottom), ink, pen)
    return picture


def values(picture: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(picture)


def test_ground_is_the_median_of_the_border() -> None:
    gray = Image.new("L", (9, 5), 200)
    gray.paste(0, (0, 0, 3, 2))
    color = Image.new("RGB", (4, 4), (1, 2, 3))

    assert ground_of(gray) == (200,)
    assert ground_of(color) == (1, 2, 3)


@pytest.mark.parametrize(("paper", "ink", "light"), [(110, 20, True), (110, 250, False)])
def test_a_ground_is_light_beside_its_ink(paper: int, ink: int, light: bool) -> None:
    assert has_light_ground(drawing(paper=paper, ink=ink)) is light


def test_both_polarities_of_a_drawing_are_cut_alike() -> None:
    dark, light = drawing(paper=230, ink=20), drawing(paper=20, ink=230)

    np.testing.assert_array_equal(values(cut_ink(dark, 0.1)), values(cut_ink(light, 0.1)))


def test_ground_is_0_and_the_strongest_ink_255() -> None:
    cut = values(cut_ink(drawing(paper=140, ink=90), 0.1))

    assert sorted(np.unique(cut)) == [0, 255]


def test_the_cut_is_a_square_around_the_ink() -> None:
    cut = values(cut_ink(drawing(), 0.1)) > 0
    rows, columns = np.flatnonzero(cut.any(axis=1)), np.flatnonzero(cut.any(axis=0))

    assert cut.shape[0] == cut.shape[1]
    assert (rows[0], cut.shape[0] - 1 - rows[-1]) == (6, 6)  # 10 % of some 60 rows
    assert abs(columns[0] - (cut.shape[1] - 1 - columns[-1])) <= 1


def test_ink_at_the_edge_gets_its_margin() -> None:
    picture = Image.new("L", (60, 60), 255)
    picture.paste(0, (0, 10, 5, 50))

    assert cut_ink(picture, 0.25).size == (60, 60)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_image_stays_blank(value: int) -> None:
    blank = values(cut_ink(Image.new("L", (70, 50), value), 0.1))
    faint = values(cut_ink(drawing(paper=value, ink=min(255, value + 8)), 0.1))

    assert not blank.any()
    assert not faint.any()


def test_small_images_are_enlarged_smoothly() -> None:
    """Digits of 8 x 8 pixels: cut at whole pixels, their box would be an eighth too wide."""
    digit = np.zeros((8, 8), np.uint8)
    digit[1:7, 3], digit[1:7, 4] = 255, 90
    cut = values(cut_ink(Image.fromarray(digit), 0))

    assert cut.shape[0] > 30
    assert len(np.unique(cut)) > 20


def test_large_drawings_keep_their_strokes() -> None:
    """A stroke of 3 in 2,000 pixels is faint when it is reduced, and made strong again."""
    small, large = drawing(side=250, pen=3), drawing(side=2000, pen=24)
    pair = [values(strengthened(cut_ink(each, 0.1).resize((28, 28), 4))) for each in (small, large)]
    thin = strengthened(cut_ink(drawing(side=2000, pen=3), 0.1).resize((28, 28), 4))

    assert np.abs(pair[0].astype(int) - pair[1]).mean() < 8
    assert values(thin).max() == 255


def test_a_long_strip_needs_no_large_square() -> None:
    strip = Image.new("L", (60_000, 4), 255)
    strip.paste(0, (100, 1, 59_000, 3))

    assert max(cut_ink(strip, 1.0).size) < 3 * 1024


def test_reduction_is_by_a_whole_factor() -> None:
    assert reduced(Image.new("L", (99, 50)), 50).size == (99, 50)
    assert reduced(Image.new("L", (100, 1)), 50).size == (50, 1)
    assert reduced(Image.new("L", (399, 40)), 100).size == (133, 14)
