"""A folder of class folders whose pictures are told apart by their colours."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"blue": (0, 0, 200), "red": (200, 0, 0)}
MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Return a function that writes a folder with so many pictures of each class."""

    def make(**counts: int) -> Path:
        generator = np.random.default_rng(0)
        for name, count in counts.items():
            (tmp_path / "mine" / name).mkdir(parents=True)
            for number in range(count):
                noise = generator.integers(0, 40, (12, 10, 3))
                pixels = (np.array(COLOURS[name]) + noise).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "mine" / name / f"{number}.png")
        return tmp_path / "mine"

    return make
