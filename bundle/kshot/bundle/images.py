"""Decoding of one encoded image from an untrusted sender.

Its structure is read first, in time linear in its bytes: what it claims, what decoding costs, and
which parts decide about pixels. Pillow sees these parts alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFile

from kshot.bundle.decoding import jpeg, png, webp
from kshot.bundle.decoding.opaque import opaque
from kshot.bundle.decoding.survey import Survey, damaged
from kshot.bundle.errors import ImageError
from kshot.local.image_formats import other_format

ONLY_ZERO_AND_ONE = "expected pixels from 0 to 255, got only 0 and 1; multiply by 255"

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
        file = _plain(data, found)
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
        found = _survey(data)
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


@dataclass(frozen=True)
class _File:
    """A file without what decides nothing about pixels."""

    data: bytes
    kind: str
    png: png.Plain | None = None
    longer: bytes = b""


def _survey(data: bytes) -> Survey:
    if data.startswith(png.SIGNATURE):
        return png.survey(data)
    if data.startswith(jpeg.START):
        return jpeg.survey(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return webp.survey(data)
    if not data:
        raise ImageError.about("is empty, not a PNG, JPEG or WebP image")
    raise ImageError.about(
        f"is {other_format(data)}not a PNG, JPEG or WebP image; convert it first"
    )


def _plain(data: bytes, found: Survey) -> _File:
    if found.kind == "PNG":
        file = png.plain(data)
        return _File(file.data, found.kind, file)
    if found.kind == "WEBP":
        return _File(webp.plain(data, found), found.kind)
    plain = jpeg.plain(data, found)
    return _File(plain, found.kind, longer=jpeg.longer(plain) if found.unsure else b"")


@contextmanager
def _as_image_errors() -> Iterator[None]:
    """Turn any error of a decoder into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError.about("needs more memory than there is; send it smaller") from error
    except Exception as error:
        # Pillow's decoders raise nearly any exception on damaged data.
        raise ImageError.about(
            "is damaged: its pixels cannot be decoded, or some are missing; save or send it again"
        ) from error


def _opened(file: _File) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(file.data), formats=(file.kind,))


def _decoded(image: ImageFile.ImageFile, file: _File) -> Image.Image:
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
    other = _opened(_File(longer, "JPEG"))
    other.draft(None, image.size)
    if ImageChops.difference(image.copy(), other).getbbox(alpha_only=False):
        damaged("codes of its last scan are missing")


def _low_bytes(file: _File) -> Image.Image:
    """Return the low bytes of 16-bit colors; Pillow gives the high ones."""
    image = _opened(file)
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    transposition = _TRANSPOSITIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)
