"""Decoding of one encoded image from an untrusted sender.

Its structure is read first, in time linear in its bytes: what it claims, what decoding costs, and
which parts decide about pixels. Pillow sees these parts alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFile

from kshot.bundle.errors import ImageError
from kshot.local.image_files import png
from kshot.local.image_files.opening import PlainFile, plain_file, survey_file
from kshot.local.image_files.survey import ImageFileError, Survey, damaged

ONLY_ZERO_AND_ONE = "expected pixels from 0 to 255, got only 0 and 1; multiply by 255"

_STRIP_PIXELS = 2**20
# Rows of so many bytes are inflated twice, to count them.
_FEW_BYTES = 2**16
_UNSEEN = 90
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ImageLimits:
    """The largest encoded image to decode: its bytes, and the pixels that its header claims."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 8192 * 8192


def decode_image(data: bytes, limits: ImageLimits | None = None, side: int = 0) -> Image.Image:
    """Decode the first frame of a PNG, JPEG or WebP to mode L or RGB, upright, on white.

    1-bit images become 0 and 255; 16-bit gray is scaled to 8 bits. With a `side`, a JPEG may come
    out smaller by 1/2, 1/4 or 1/8, with a shorter side of at least `side` pixels; that takes less
    time and memory. Raises `ImageError`.
    """
    return decode_once(data, survey_image(data, limits), [side])[side]


def decode_once(data: bytes, found: Survey, sides: Iterable[int]) -> dict[int, Image.Image]:
    """Return by each side what `decode_image` gives with it, decoded once for each size of it.

    `found` is what `survey_image` gave.
    """
    with _as_image_errors():
        file = plain_file(data, found)
        by_size: dict[tuple[int, int], Image.Image] = {}
        by_side: dict[int, Image.Image] = {}
        for side in sides:
            with _opened(file) as image:
                if side:  # a JPEG may come out smaller, but not below
                    image.draft(None, (side, side))
                size = image.size
                if size not in by_size:
                    by_size[size] = _upright(_decoded(image, file), found.orientation)
                by_side[side] = by_size[size]
        return by_side


def survey_image(data: bytes, limits: ImageLimits | None = None) -> Survey:
    """Return what a file claims; raise `ImageError` if it is too large, or is not an image."""
    limits = limits or ImageLimits()
    if len(data) > limits.max_bytes:
        raise ImageError.about(
            f"has {len(data)} bytes; expected at most {limits.max_bytes}; send it smaller"
        )
    with _as_image_errors():
        found = survey_file(data)
    if found.width * found.height > limits.max_pixels:
        raise ImageError.about(
            f"claims {found.width} x {found.height} pixels; expected at most {limits.max_pixels} "
            "in all; send it smaller"
        )
    return found


def count_pixels(data: bytes, limits: ImageLimits | None = None, side: int = 0) -> int:
    """Return the pixels that decoding with `side` holds, by the header. Raises `ImageError`.

    A progressive JPEG is held whole, at whatever size it is decoded.
    """
    return survey_image(data, limits).pixels(side)


@dataclass
class Levels:
    """Tells images of 0 and 1 from pictures of 0 to 255: all are seen, then checked."""

    greatest: int = 0
    differ: bool = False

    def see(self, picture: Image.Image) -> None:
        """Look at a picture in mode L or RGB, unless one before has told."""
        if self.greatest > 1:
            return
        # One pixel tells of nearly all pictures.
        middle = np.array(picture.getpixel((picture.width // 2, picture.height // 2)))
        self.greatest = max(self.greatest, int(middle.max()))
        if self.greatest <= 1:
            extrema = np.array(picture.getextrema()).reshape(-1, 2)  # (channels, 2)
            self.greatest = max(self.greatest, int(extrema.max()))
            self.differ |= bool((extrema[:, 0] != extrema[:, 1]).any())

    def join(self, other: Levels) -> None:
        """Take in what was seen elsewhere."""
        self.greatest = max(self.greatest, other.greatest)
        self.differ |= other.differ

    @property
    def are_bits(self) -> bool:
        """Tell whether there were only 0 and 1, and both of them in a picture."""
        return self.greatest == 1 and self.differ

    def check(self) -> None:
        """Raise `ImageError` if they are bits."""
        if self.are_bits:
            raise ImageError.about(ONLY_ZERO_AND_ONE)


@contextmanager
def _as_image_errors() -> Iterator[None]:
    """Turn any error of a decoder into an `ImageError`."""
    try:
        yield
    except ImageFileError as error:
        raise ImageError.about(str(error)) from error
    except MemoryError as error:
        raise ImageError.about("needs more memory than there is; send it smaller") from error
    except Exception as error:
        # Pillow's decoders raise nearly any exception on damaged data.
        raise ImageError.about(
            "is damaged: its pixels cannot be decoded, or some are missing; save or send it again"
        ) from error


def _opened(file: PlainFile) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(file.data), formats=(file.kind,))


def _decoded(image: ImageFile.ImageFile, file: PlainFile) -> Image.Image:
    if file.png is None:
        image.load()
        if file.longer:
            _check_scans(image, file.longer)
        return opaque(image)
    _load_png(image, file.png)
    clear, depth = file.png.clear, file.png.header.depth
    deep_color = depth == 16 and len(clear) == 3
    return opaque(image, clear, depth, _low_bytes(file) if deep_color else None)


def _load_png(image: ImageFile.ImageFile, file: png.Plain) -> None:
    """Load all rows; Pillow does not notice that the last ones are missing."""
    if file.row_bytes <= _FEW_BYTES or file.header.interlaced or image.mode == "1":
        png.check_rows(file)
        image.load()
        return
    bands = image.getbands()
    unseen = (_UNSEEN,) * len(bands) if len(bands) > 1 else _UNSEEN
    image.im = Image.new(image.mode, image.size, unseen).im
    image.load()
    last = image.crop((0, image.height - 1, image.width, image.height))
    if np.all(np.array(last.getextrema()) == _UNSEEN):
        png.check_rows(file)


def _check_scans(image: ImageFile.ImageFile, longer: bytes) -> None:
    """Raise `ImageError` if more codes in the last scan of a JPEG give other pixels."""
    other = _opened(PlainFile(longer, "JPEG"))
    other.draft(None, image.size)
    if ImageChops.difference(image.copy(), other).getbbox(alpha_only=False):
        damaged("codes of its last scan are missing")


def _low_bytes(file: PlainFile) -> Image.Image:
    """Return the low bytes of 16-bit colors; Pillow gives the high ones."""
    image = _opened(file)
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    transposition = _TRANSPOSITIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def opaque(
    image: Image.Image,
    clear: Sequence[int] = (),
    depth: int = 8,
    low: Image.Image | None = None,
) -> Image.Image:
    """Return a loaded image in mode L or RGB; transparent pixels become white.

    `clear` is a colour, in `depth` bits a channel, that stands for transparent pixels; `low` has
    the low bytes of an image whose `depth` is 16.
    """
    if image.mode.startswith("I"):
        return _by_strips(image, "L", lambda strip, _: _from_16_bit(strip, clear))
    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = _by_strips(image, "RGB", lambda strip, _: over_white(strip))
    mode = "L" if gray else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if not clear:
        return image
    if gray:
        level = clear[0] * 255 // (2**depth - 1)
        return image.point([255 if each == level else each for each in range(256)])

    def whiten(strip: Image.Image, box: Box) -> Image.Image:
        pixels = np.array(strip)  # (height, width, 3)
        hit = (pixels == np.right_shift(clear, depth - 8)).all(axis=2)
        if low is not None:
            hit &= (np.asarray(low.crop(box)) == np.bitwise_and(clear, 255)).all(axis=2)
        pixels[hit] = 255
        return Image.fromarray(pixels)

    return _by_strips(image, "RGB", whiten)


def over_white(image: Image.Image) -> Image.Image:
    """Return an image with transparency in mode RGB, laid over white."""
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _by_strips(
    image: Image.Image, mode: str, change: Callable[[Image.Image, Box], Image.Image]
) -> Image.Image:
    """Change pixels a few rows at a time: a large image needs no further copies."""
    changed = Image.new(mode, image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = image.crop(box)
        strip.info = image.info
        changed.paste(change(strip, box), (0, top))
    return changed


def _from_16_bit(image: Image.Image, clear: Sequence[int]) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    scaled = (values + 128) // 257  # 65535 -> 255, rounded
    if clear:
        scaled[values == clear[0]] = 255
    return Image.fromarray(scaled.astype(np.uint8))
