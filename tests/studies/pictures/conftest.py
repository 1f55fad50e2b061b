"""A set whose classes are told apart by their colours."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from studies.pictures.sets import PictureSet, picture_set


def encoded(colour: tuple[int, int, int], seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 40, (12, 10, 3))
    stream = io.BytesIO()
    Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


@pytest.fixture(scope="session")
def make_pictures() -> Callable[[], PictureSet]:
    """Return a function that makes three classes of four pictures."""
    return lambda: picture_set(
        (name, None, encoded(colour, number))
        for name, colour in COLOURS.items()
        for number in range(4)
    )


@pytest.fixture
def pictures(make_pictures: Callable[[], PictureSet]) -> PictureSet:
    return make_pictures()
