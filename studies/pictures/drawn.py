"""Drawings that are made here: digits, printed letters, and characters on canvases."""

import io
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from kshot.bundle import Grayscale, InputSpec, Rescale, Resize
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data
from studies.common.rows import read_rows
from studies.pictures.sets import PictureSet, picture_set

Pixels = npt.NDArray[np.uint8]
SYSTEM_FONTS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
STYLES = ("Regular", "Book", "Roman", "Medium", "Normal")
LEAST_FAMILIES = 40
CANVAS_SIDE, FONT_SIDE = 64, 40
# Omniglot's drawings.
DRAWN_SIDE, CHARACTER_COUNT = 105, 40


@dataclass(frozen=True)
class Family:
    """A family of fonts, by the name in its files, and the Debian package that has it."""

    name: str
    package: str


# Reads the families of `studies/rows/fonts.toml`, by their names.
listed_families = cache(partial(read_rows, "fonts", Family))


def encode(picture: Image.Image) -> bytes:
    """Encode a picture as PNG."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def digits() -> PictureSet:
    """Return scikit-learn's 1,797 handwritten digits, 8x8, bright ink on a dark ground."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return picture_set(
        (str(target), None, encode(Image.fromarray(image)))
        for target, image in zip(found.target, images, strict=True)
    )


def letters(folders: Sequence[Path]) -> PictureSet:
    """Return A to Z, black on a white canvas of 64 pixels, in the installed families of fonts.

    The families are those of `studies/rows/fonts.toml`; each is a group. Raises `DataError` where
    fewer than 40 of them are installed.
    """
    families = installed_families(folders)
    if len(families) < LEAST_FAMILIES:
        packages = " ".join(sorted({of.package for of in listed_families().values()}))
        raise DataError(
            f"fonts: expected at least {LEAST_FAMILIES} families of studies/rows/fonts.toml in "
            f"{', '.join(map(str, folders))}, got {len(families)}; apt install {packages}"
        )
    return picture_set(
        (letter, family, encode(printed_letter(letter, path)))
        for family, path in families.items()
        for letter in string.ascii_uppercase
    )


def installed_families(folders: Sequence[Path]) -> Mapping[str, Path]:
    """Return a font file of each listed family that is installed, in the list's order."""
    files: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.[ot]tf")):
            try:
                family, style = ImageFont.truetype(path, FONT_SIDE).getname()
            except OSError:  # not a font that FreeType reads
                continue
            if style in STYLES:
                files.setdefault(str(family), path)
    return {family: files[family] for family in listed_families() if family in files}


def printed_letter(letter: str, font_path: Path) -> Image.Image:
    """Print a letter in the middle of its canvas."""
    font, middle = ImageFont.truetype(font_path, FONT_SIDE), CANVAS_SIDE / 2
    canvas = Image.new("L", (CANVAS_SIDE, CANVAS_SIDE), 255)
    drawing = ImageDraw.Draw(canvas)
    left, top, right, bottom = drawing.textbbox((0, 0), letter, font=font)
    place = middle - (left + right) / 2, middle - (top + bottom) / 2
    drawing.text(place, letter, font=font, fill=0)
    return canvas


def canvases(data_folder: Path, side: int, pen: int) -> PictureSet:
    """Redraw test characters of Omniglot's `reptile` split with a pen on square canvases.

    The first 40 characters; side and pen in pixels. Raises `DataError`.
    """
    images, offsets = _characters(data_folder)
    return picture_set(
        (f"{character:02d}", None, encode(redraw(images[row], side, pen)))
        for character in range(CHARACTER_COUNT)
        for row in range(offsets[character], offsets[character + 1])
    )


def redraw(drawing: Pixels, side: int, pen: int) -> Image.Image:
    """Draw the strokes' middle lines, `(height, width)` with ink 0, again with a round pen."""
    scale = side / len(drawing)
    canvas = Image.new("L", (side, side), 255)
    pencil, radius = ImageDraw.Draw(canvas), pen / 2
    for first, second in _strokes(drawing):
        ends = [((x + 0.5) * scale, (y + 0.5) * scale) for y, x in (first, second)]
        pencil.line(ends, fill=0, width=pen)
        for x, y in ends:
            pencil.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)
    return canvas


def _strokes(drawing: Pixels) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield pairs of neighbouring pixels of the middle lines; a single pixel is its own pair."""
    from skimage.morphology import skeletonize

    inked = {(int(y), int(x)) for y, x in np.argwhere(skeletonize(drawing < 128))}
    for y, x in sorted(inked):
        yield (y, x), (y, x)
        for step in ((0, 1), (1, -1), (1, 0), (1, 1)):
            neighbour = y + step[0], x + step[1]
            if neighbour in inked:
                yield (y, x), neighbour


@cache
def _characters(data_folder: Path) -> tuple[Pixels, Sequence[int]]:
    """Read test characters: images `(n, 105, 105)` and where each begins."""
    steps = (Grayscale(), Resize(DRAWN_SIDE, DRAWN_SIDE, "nearest"), Rescale(1 / 255))
    spec = InputSpec((1, DRAWN_SIDE, DRAWN_SIDE), steps)
    found = read_dataset(
        Data("omniglot", "reptile", rotations=False), data_folder, "test", input_spec=spec
    )
    offsets = found.class_offsets[: CHARACTER_COUNT + 1].tolist()
    return found.images[: offsets[-1], 0].numpy(), offsets
