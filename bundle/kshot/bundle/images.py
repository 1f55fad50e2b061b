"""Decoding of one encoded image from an untrusted sender."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from kshot.bundle.errors import ImageError

FORMATS = ("PNG", "JPEG", "WEBP")

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

    max_bytes: int = 16 * 2**20
    max_pixels: int = 4096 * 4096


def decode_image(data: bytes, limits: ImageLimits | None = None) -> Image.Image:
    """Decode the first frame of a PNG, JPEG or WebP to mode L or RGB, upright, on white.

    1-bit images become 0 and 255; 16-bit gray is scaled to 8 bits. Raises `ImageError`.
    """
    with _opened(data, limits or ImageLimits()) as image:
        image.load()
        return _upright(_opaque(image), _orientation(image))


def count_pixels(data: bytes, limits: ImageLimits | None = None) -> int:
    """Return the pixels that an image's header claims, decoding nothing. Raises `ImageError`."""
    with _opened(data, limits or ImageLimits()) as image:
        return image.width * image.height


@contextmanager
def _opened(data: bytes, limits: ImageLimits) -> Iterator[Image.Image]:
    """Open an image within the limits; any error of its decoder becomes an `ImageError`."""
    if len(data) > limits.max_bytes:
        raise ImageError.about(f"has {len(data)} bytes; expected at most {limits.max_bytes}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.width, image.height, limits)
            yield image
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError.about(
            f"claims too many pixels; expected at most {limits.max_pixels}"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError.about("is not a PNG, JPEG or WebP image") from error
    except Exception as error:
        # Pillow's decoders raise nearly any exception on damaged data.
        raise ImageError.about("is damaged and cannot be decoded") from error


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError.about(
            f"claims {width} x {height} pixels; expected at most {limits.max_pixels} in all"
        )


def _opaque(image: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB; transparent pixels become white."""
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return image.convert("L" if gray else "RGB")


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
