"""Decoded pixels in 8 bits, over white: one rule for alpha, palettes and transparent colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

_STRIP_PIXELS = 2**20

Box = tuple[int, int, int, int]


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
    image = image.convert("L" if gray else "RGB")
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
