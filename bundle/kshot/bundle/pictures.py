"""The steps between colour and resize: what is done to the picture itself."""

from __future__ import annotations

from PIL import Image, ImageOps

from kshot.bundle.ink import cut_ink, ground_of, has_light_ground, reduced
from kshot.bundle.steps import Ink, Polarity, PreprocessingStep, Reduce, Resize, Square

PADDED_SIDES = 4
"""What is padded has a longer side below twice this multiple of the resize's."""


def apply_step(picture: Image.Image, step: PreprocessingStep, resize: Resize) -> Image.Image:
    """Apply a picture step to an image in mode L or RGB that `resize` follows."""
    match step:
        case Polarity():
            light = has_light_ground(picture.convert("L"))
            return picture if light is (step.ground == "light") else ImageOps.invert(picture)
        case Ink():
            return cut_ink(picture, step.margin)
        case Square():
            return _cropped(picture) if step.by == "crop" else _padded(picture, resize)
        case Reduce():
            size = (min(picture.width, step.width), min(picture.height, step.height))
            return picture.resize(size, Image.Resampling.BOX)
        case _:
            return picture


def _cropped(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _padded(picture: Image.Image, resize: Resize) -> Image.Image:
    # Reduced first: a strip of a few rows would need a square as large as its length.
    picture = reduced(picture, PADDED_SIDES * max(resize.height, resize.width))
    side = max(picture.size)
    if side == min(picture.size):
        return picture
    padded = Image.new(picture.mode, (side, side), ground_of(picture))
    padded.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return padded
