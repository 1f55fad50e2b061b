"""Images in the place of data sets that cannot be shipped: many classes that learning tells apart.

`python tests/studies/generated_images.py DIR` writes DIR/mini-imagenet, in that data set's form.

A class is a pattern of coarse cells. An image shows it shifted, under a shading and a noise that
say nothing of the class. To look through the shading helps on every class: a network that has met
some classes adapts better to new ones, and an untrained one is far from perfect.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["MINI_IMAGENET", "ImageForm", "class_images", "write_classes"]

# The WordNet ids of mini-ImageNet (Ravi and Larochelle 2017), by part.
_TRAIN = """
n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747 n02074367 n02089867
n02091831 n02101006 n02105505 n02108089 n02108551 n02108915 n02111277 n02113712 n02120079
n02165456 n02457408 n02606052 n02687172 n02747177 n02795169 n02823428 n02966193 n03017168
n03047690 n03062245 n03207743 n03220513 n03337140 n03347037 n03400231 n03476684 n03527444
n03676483 n03838899 n03854065 n03888605 n03908618 n03924679 n03998194 n04067472 n04243546
n04251144 n04258138 n04275548 n04296562 n04389033 n04435653 n04443257 n04509417 n04515003
n04596742 n04604644 n04612504 n06794110 n07584110 n07697537 n07747607 n09246464 n13054560
n13133613
"""
_VAL = """
n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370
n03417042 n03535780 n03584254 n03770439 n03773504 n03980874 n09256479
"""
_TEST = """
n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484
n02871525 n03127925 n03146219 n03272010 n03544143 n03775546 n04146614 n04149813 n04418357
n04522168 n07613480
"""
MINI_IMAGENET = {"train": _TRAIN.split(), "val": _VAL.split(), "test": _TEST.split()}
CELLS = 5
SHADING_CELLS = 3


@dataclass(frozen=True)
class ImageForm:
    """Square images of one channel or three; `contrast` is the class's share of the range."""

    side: int
    channels: int
    image_count: int
    contrast: float = 0.6


def class_images(form: ImageForm, seed: int) -> npt.NDArray[np.uint8]:
    """Draw the images of one class: `(image_count, side, side, channels)`."""
    generator = np.random.default_rng(seed)
    side, count = form.side, form.image_count
    cell = -(-side // CELLS)
    pattern = generator.random((CELLS, CELLS, form.channels)) < 0.5
    large = np.kron(pattern, np.ones((cell, cell, 1), bool))
    large = np.tile(large, (2, 2, 1)).astype(np.float32)  # shifting runs around the edges
    noise = generator.random((count, side, side, form.channels), np.float32)
    cells = generator.random((count, SHADING_CELLS, SHADING_CELLS, form.channels), np.float32)
    mixed = (1 - form.contrast) * (0.7 * _smooth(cells, side) + 0.3 * noise)
    for index, (row, column) in enumerate(generator.integers(0, cell + 1, (count, 2))):
        mixed[index] += form.contrast * large[row : row + side, column : column + side]
    return (mixed * 255).astype(np.uint8)


def write_classes(folder: Path, form: ImageForm, parts: Mapping[str, Sequence[str]]) -> None:
    """Write `<part>/<class>/<image>.jpg` below a folder, each class from its own seed."""
    places = [folder / part / name for part, names in parts.items() for name in names]
    for seed, place in enumerate(places):
        place.mkdir(parents=True)
        for index, pixels in enumerate(class_images(form, seed)):
            picture = Image.fromarray(pixels if form.channels == 3 else pixels[:, :, 0])
            picture.save(place / f"{place.name}{index:08d}.jpg", quality=90)


def _smooth(coarse: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
    """Enlarge `(n, cells, cells, channels)` to `(n, side, side, channels)`, linearly."""
    cells = coarse.shape[1]
    place = np.linspace(0, cells - 1, side)
    low = np.minimum(place.astype(int), cells - 2)
    part = place - low
    weights = np.zeros((side, cells), np.float32)
    weights[np.arange(side), low] = 1 - part
    weights[np.arange(side), low + 1] = part
    rows = np.einsum("ya,nabc->nybc", weights, coarse)
    return np.moveaxis(np.tensordot(rows, weights, (2, 1)), 3, 2)


if __name__ == "__main__":
    form = ImageForm(side=84, channels=3, image_count=600)
    write_classes(Path(sys.argv[1]) / "mini-imagenet", form, MINI_IMAGENET)
