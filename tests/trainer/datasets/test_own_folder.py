"""What a user's folder holds, and what it cannot be trained on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot.trainer.datasets.own_folder import files_on_both_sides, look_at
from kshot.trainer.errors import DataError

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a folder of classes, each with its own shape of ink or its own colours."""

    def folder(classes: int, pictures: int = 3, *, drawn: bool = True) -> Path:
        random = np.random.default_rng(0)
        for label in range(classes):
            place = tmp_path / "mine" / f"class{label}"
            place.mkdir(parents=True)
            for number in range(pictures):
                pixels = np.full((32, 32, 3), 255, np.uint8)
                if drawn:
                    pixels[8 : 12 + label, 8 + number : 20] = 0
                else:
                    pixels = random.integers(0, 255, pixels.shape, np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
        return tmp_path / "mine"

    return folder


def test_drawings_are_told_from_other_pictures(make: Make, tmp_path: Path) -> None:
    own = look_at(make(6))

    assert own.drawings
    assert sum(map(len, own.split.values())) == 6
    assert own.fewest("train") == own.fewest("test") == 3
    (tmp_path / "mine").rename(tmp_path / "other")
    assert not look_at(make(6, drawn=False)).drawings


def test_what_is_passed_over_is_remarked(make: Make) -> None:
    """By the client's rule; only its own remedies need not be the trainer's."""
    folder = make(6)
    (folder / "class0" / "Thumbs.db").write_bytes(b"\xd0\xcf")

    assert look_at(folder).remarks == (
        f"{folder}: passed over what is no image of a class: class0/Thumbs.db",
    )
    (folder / "class0" / "a.heic").touch()
    with pytest.raises(DataError, match=r"a\.heic: a HEIC file; .*; convert it to PNG or JPEG"):
        look_at(folder)


def test_what_cannot_be_trained_on_is_told_with_the_remedy(make: Make, tmp_path: Path) -> None:
    folder = make(3)
    with pytest.raises(DataError, match=r"expected at least 4 classes.*got 3; adapt .* kshot try"):
        look_at(folder)
    with pytest.raises(DataError, match="missing: no such directory: expected one subdirectory"):
        look_at(tmp_path / "missing")
    (folder / "more").mkdir()
    Image.new("L", (9, 9)).save(folder / "more" / "one.png")
    with pytest.raises(DataError, match=r"more: expected at least 2 pictures, .* got 1; add"):
        look_at(folder)
    (folder / "more" / "two.png").write_text("no picture")
    with pytest.raises(DataError, match=r"two\.png is .*not a PNG"):
        look_at(folder)


def test_equal_files_of_training_and_test_classes_are_found(make: Make) -> None:
    folder = make(6, drawn=False)
    own = look_at(folder)
    assert files_on_both_sides(own) == []
    first, second = (f"{own.split[part][0]}/0.png" for part in ("train", "test"))
    (folder / second).write_bytes((folder / first).read_bytes())

    assert files_on_both_sides(own) == [(first, second)]
