"""Decoding of one encoded image from an untrusted sender."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from kshot.bundle.errors import ImageError

FORMATS = ("PNG", "JPEG", "WEBP")

ONLY_ZERO_AND_ONE = "expected pixels from 0 to 255, got only 0 and 1; multiply by 255"

_STRIP_PIXELS = 2**20
_ORIENTATION_TAG = 0x0112
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
    return decode_once(data, limits, [side])[side]


def decode_once(
    data: bytes, limits: ImageLimits | None, sides: Iterable[int]
) -> dict[int, Image.Image]:
    """Return by each side what `decode_image` gives with it, decoded once for each size of it."""
    by_size: dict[tuple[int, int], Image.Image] = {}
    found: dict[int, Image.Image] = {}
    for side in sides:
        with _opened(data, limits or ImageLimits()) as image:
            _draft(image, side)
            size = image.size
            if size not in by_size:
                image.load()
                _scale_transparency(image, data)
                by_size[size] = _upright(_opaque(image), _orientation(image))
            found[side] = by_size[size]
    return found


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

    @property
    def are_bits(self) -> bool:
        """Tell whether there were only 0 and 1, and both of them in a picture."""
        return self.greatest == 1 and self.differ

    def check(self) -> None:
        """Raise `ImageError` if they are bits."""
        if self.are_bits:
            raise ImageError.about(ONLY_ZERO_AND_ONE)


def count_pixels(data: bytes, limits: ImageLimits | None = None, side: int = 0) -> int:
    """Return the pixels that decoding with `side` holds, by the header. Raises `ImageError`.

    A progressive JPEG is held whole, at whatever size it is decoded.
    """
    with _opened(data, limits or ImageLimits()) as image:
        if "progressive" not in image.info:
            _draft(image, side)
        return image.width * image.height


@contextmanager
def _opened(data: bytes, limits: ImageLimits) -> Iterator[Image.Image]:
    """Open an image within the limits; any error of its decoder becomes an `ImageError`."""
    if len(data) > limits.max_bytes:
        raise ImageError.about(
            f"has {len(data)} bytes; expected at most {limits.max_bytes}; send it smaller"
        )
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.width, image.height, limits)
            yield image
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError.about(
            f"claims too many pixels; expected at most {limits.max_pixels}; send it smaller"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError.about("is not a PNG, JPEG or WebP image, convert it first") from error
    except Exception as error:
        # Pillow's decoders raise nearly any exception on damaged data.
        raise ImageError.about("is damaged and cannot be decoded") from error


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError.about(
            f"claims {width} x {height} pixels; expected at most {limits.max_pixels} in all; "
            "send it smaller"
        )


def _draft(image: Image.Image, side: int) -> None:
    """Let a JPEG be decoded smaller, but not below `side`; 0 lets it be."""
    if side:
        image.draft(None, (side, side))


def _scale_transparency(image: Image.Image, data: bytes) -> None:
    """Bring a PNG's transparent colour to 8 bits, as Pillow brings the pixels of 2, 4 and 16."""
    clear = image.info.get("transparency")
    if image.format != "PNG" or data[12:16] != b"IHDR":
        return
    depth, kind = data[24], data[25]
    if kind == 0 and depth in (2, 4) and isinstance(clear, int):
        most = 2**depth - 1
        image.info["transparency"] = (clear & most) * 255 // most
    if kind == 2 and depth == 16 and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _opaque(image: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB; transparent pixels become white."""
    if image.mode.startswith("I"):
        return _by_strips(image, "L", _from_16_bit)
    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = _by_strips(image, "RGB", over_white)
    return image.convert("L" if gray else "RGB")


def over_white(image: Image.Image) -> Image.Image:
    """Return an image with transparency in mode RGB, laid over white."""
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _by_strips(
    image: Image.Image, mode: str, change: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Change pixels a few rows at a time: a large image needs no further copies."""
    changed = Image.new(mode, image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        strip.info = image.info
        changed.paste(change(strip), (0, top))
    return changed


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    transparent = values == image.info.get("transparency", -1)
    scaled = (values + 128) // 257  # 65535 -> 255, rounded
    scaled[transparent] = 255
    return Image.fromarray(scaled.astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where none can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        # Damaged metadata does not affect the pixels.
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    transposition = _TRANSPOSITIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)
