from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import ImageError, decode_image, survey_image
from kshot.local.image_files.survey import MAX_PARTS

NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 4), np.uint8)


def webp(mode: str = "RGB", **options: Any) -> bytes:  # noqa: ANN401 -- Pillow's
    stream = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(stream, "WEBP", **options)
    return stream.getvalue()


def animation(count: int) -> bytes:
    frames = [Image.fromarray(np.roll(NOISE, at, 0)).convert("RGB") for at in range(count)]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def as_pillow(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0junk"}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_pixels_are_those_of_pillow(mode: str, options: dict[str, Any]) -> None:
    data = webp(mode, **options)
    pixels = as_pillow(data)
    if mode == "RGBA":
        white = Image.new("RGBA", (56, 40), "white")
        pixels = np.asarray(Image.alpha_composite(white, Image.fromarray(pixels)).convert("RGB"))

    np.testing.assert_array_equal(np.asarray(decode_image(data)), pixels)
    found = survey_image(data)
    assert (found.width, found.height, found.pixels(10)) == (56, 40, 56 * 40)


def test_only_the_first_frame_is_decoded() -> None:
    data = animation(5)

    np.testing.assert_array_equal(np.asarray(decode_image(data)), as_pillow(data))
    assert survey_image(data).seconds < 2 * survey_image(animation(2)).seconds


@pytest.mark.parametrize("extra", [chunk(b"ICCP", b"x" * 99), chunk(b"junk", b"x"), b"\0" * 7])
def test_metadata_does_not_decide(extra: bytes) -> None:
    picture = webp(lossless=True)[12:]
    flags = struct.pack("<I", 0x2C)  # a profile, EXIF and XMP, though they are not all there
    canvas = chunk(b"VP8X", flags + struct.pack("<HBHB", 55, 0, 39, 0))

    for data in (riff(canvas, extra, picture), riff(canvas, picture, extra), riff(picture, extra)):
        if data.count(b"\0" * 7 + b"VP8L"):
            continue
        np.testing.assert_array_equal(
            np.asarray(decode_image(data)), as_pillow(webp(lossless=True))
        )


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_cut_file_is_refused(mode: str, lossless: bool, share: float) -> None:
    """Whether the sizes in the file are those before the cut or behind it."""
    data = webp(mode, lossless=lossless)
    cut = bytearray(data[: int(len(data) * share) // 2 * 2])

    with pytest.raises(ImageError, match="is damaged: "):
        decode_image(bytes(cut))
    cut[4:8] = struct.pack("<I", len(cut) - 8)
    with pytest.raises(ImageError, match="is damaged: "):
        decode_image(bytes(cut))
    if mode == "RGB":
        cut[16:20] = struct.pack("<I", len(cut) - 20)
        with pytest.raises(ImageError, match="is damaged: "):
            decode_image(bytes(cut))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (riff(*[chunk(b"junk", b"")] * MAX_PARTS), f"has more chunks than {MAX_PARTS}"),
        (riff(), "it has no picture"),
        (riff(chunk(b"VP8X", bytes(10))), "it has no picture"),
        (riff(chunk(b"VP8 ", bytes(10))), "expected a picture's header"),
        (riff(chunk(b"VP8L", b"\x2f")), "expected a picture's header"),
        (riff(chunk(b"VP8 ", b"\0\0\0\x9d\x01\x2a\0\0\0\0")), "claims 0 x 0 pixels"),
        (riff(b"VP8 \xff\xff\xff\x7f" + bytes(10)), "its VP8 chunk ends after 10 bytes"),
        (
            riff(chunk(b"VP8X", b"\x02\0\0\0" + b"\xff" * 6), chunk(b"ANMF", bytes(16))),
            "claims 16777216 x 16777216 pixels",
        ),
    ],
)
def test_chunks_that_cannot_be_are_refused(data: bytes, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        survey_image(data)


def test_the_orientation_is_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    xmp = b'<x tiff:Orientation="3"/>'

    for options in ({"exif": exif}, {"xmp": xmp}):
        turned = np.asarray(decode_image(webp(lossless=True, **options)))
        np.testing.assert_array_equal(turned[::-1, ::-1], as_pillow(webp(lossless=True)))
