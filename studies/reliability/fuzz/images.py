"""Image files: what decoders make of damaged and malicious ones."""

from __future__ import annotations

import io
import random

import numpy as np
from PIL import Image, PngImagePlugin

from kshot.bundle import ImageError, ImageLimits, count_pixels, decode_image
from studies.reliability.fuzz.mutation import bytes_like, picture_like
from studies.reliability.fuzz.target import Target

_LIMITS = ImageLimits(max_bytes=2**20, max_pixels=2**20)
_SIDES = (0, 8, 84)
_MODULES = (
    "kshot.bundle.images",
    *(
        f"kshot.local.image_files.{name}"
        for name in ("jpeg", "opening", "orientation", "png", "survey", "webp")
    ),
)


def target() -> Target:
    """Decode files of all kinds, damaged in all ways."""
    corpus = _corpus()

    def draw(chance: random.Random) -> bytes:
        content = chance.choice(corpus)
        if chance.random() < 0.6:
            return picture_like(chance, content, corpus)
        return bytes_like(chance, content, corpus)

    def run(content: bytes) -> bool:
        side = _SIDES[len(content) % len(_SIDES)]
        try:
            if count_pixels(content, _LIMITS, side) <= 0:
                raise AssertionError("an image without pixels")
        except ImageError:
            return False
        try:
            image = decode_image(content, _LIMITS, side)
        except ImageError:
            return True
        if image.mode not in ("L", "RGB"):
            raise AssertionError(f"decoded to mode {image.mode}")
        return True

    return Target(draw, run, _MODULES)


def _corpus() -> list[bytes]:
    random_numbers = np.random.default_rng(0)
    files = []
    for height, width in ((1, 1), (9, 7), (24, 32)):
        rgba = Image.fromarray(
            random_numbers.integers(0, 256, (height, width, 4), np.uint8), "RGBA"
        )
        rgb, gray = rgba.convert("RGB"), rgba.convert("L")
        deep = Image.fromarray(random_numbers.integers(0, 2**16, (height, width), np.uint16))
        palette = rgb.quantize(4)
        exif = Image.Exif()
        exif[0x0112] = 6
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", "a" * 100)
        text.add_itxt("Title", "b" * 100, zip=True)
        files += [
            _file(gray, "PNG"),
            _file(gray.convert("1"), "PNG"),
            _file(gray.convert("LA"), "PNG"),
            _file(rgb, "PNG", pnginfo=text, icc_profile=b"\0" * 200),
            _file(rgba, "PNG"),
            _file(deep, "PNG"),
            _file(palette, "PNG", bits=2, transparency=1),
            _file(palette, "PNG", bits=4, transparency=b"\0\x7f\xff"),
            _file(gray, "PNG", transparency=3),
            _file(rgb, "JPEG", exif=exif),
            _file(rgb, "JPEG", progressive=True, quality=30),
            _file(gray, "JPEG", restart_marker_blocks=1),
            _file(rgb.convert("CMYK"), "JPEG"),
            _file(rgb, "WEBP", lossless=True, exif=exif.tobytes()),
            _file(rgba, "WEBP", quality=50),
            _file(
                rgb,
                "WEBP",
                save_all=True,
                append_images=[rgb.transpose(Image.Transpose.ROTATE_180)],
            ),
            _file(rgb, "GIF"),
            _file(rgb, "BMP"),
        ]
    return files


def _file(image: Image.Image, form: str, **options: object) -> bytes:
    written = io.BytesIO()
    image.save(written, form, **options)
    return written.getvalue()
