import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from kshot.trainer.errors import DataError
from studies.pictures import drawn
from studies.pictures.drawn import (
    Family,
    digits,
    installed_families,
    letters,
    listed_families,
    redraw,
)

# matplotlib brings DejaVu.
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def test_digits_are_as_scikit_learn_has_them() -> None:
    found = digits()
    first = np.asarray(Image.open(io.BytesIO(found.pictures[0])))

    assert (len(found.pictures), found.class_names) == (1797, tuple("0123456789"))
    assert (first.shape, first.dtype, first.max()) == ((8, 8), np.uint8, 239)


def test_letters_need_many_families() -> None:
    assert len(listed_families()) > 70
    with pytest.raises(DataError, match=r"least 40 families .*got 3; apt install fonts"):
        letters([FONTS])


def test_letters_are_black_in_the_middle_of_a_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "LEAST_FAMILIES", 3)
    found = letters([FONTS])

    assert (len(found.pictures), len(found.class_names)) == (3 * 26, 26)
    assert set(found.groups or ()) == {"DejaVu Sans", "DejaVu Sans Mono", "DejaVu Serif"}
    picture = np.asarray(Image.open(io.BytesIO(found.pictures[0])))
    inked = np.argwhere(picture < 128)
    assert picture.shape == (64, 64)
    assert np.allclose((inked.min(axis=0) + inked.max(axis=0)) / 2, 32, atol=2)


def test_families_that_are_not_listed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"DejaVu Serif": Family("DejaVu Serif", "fonts-dejavu-core")}
    monkeypatch.setattr(drawn, "listed_families", lambda: only)

    assert list(installed_families([FONTS])) == ["DejaVu Serif"]


@pytest.mark.parametrize(("side", "pen"), [(105, 3), (300, 12)])
def test_strokes_have_the_width_of_the_pen(side: int, pen: int) -> None:
    drawing = np.full((105, 105), 255, np.uint8)
    drawing[50:54, 20:85] = 0

    canvas = np.asarray(redraw(drawing, side, pen))

    assert canvas.shape == (side, side)
    middle = canvas[:, side // 2]
    assert abs(int((middle < 128).sum()) - pen) <= 1
    inked = np.flatnonzero(middle < 128)
    assert abs(inked.mean() - side * 52 / 105) < pen
