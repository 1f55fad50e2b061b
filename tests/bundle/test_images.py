from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import ImageError, ImageLimits, count_pixels, decode_image
from kshot.bundle import images as images_module

LEFT_TO_RIGHT = np.array([[10, 200, 30], [40, 50, 60]], np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:  # noqa: ANN401 -- Pillow's
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG of some 100 bytes whose header claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def webp_claiming(width: int, height: int) -> bytes:
    """Return an animated WebP of some 50 bytes whose header claims any canvas."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas
    body += b"ANIM" + struct.pack("<I", 6) + b"\0" * 6
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_decodes_the_three_formats(kind: str, mode: str) -> None:
    image = decode_image(encoded(Image.new(mode, (5, 4), "gray"), kind))

    assert image.size == (5, 4)
    assert image.mode in ("L", "RGB")
    assert abs(int(np.asarray(image).mean()) - 128) <= 2


def test_one_bit_pixels_become_0_and_255() -> None:
    bits = np.array([[True, False], [False, True]])
    image = decode_image(encoded(Image.fromarray(bits)))

    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), bits * 255)


def test_alpha_is_laid_over_white() -> None:
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    image = decode_image(encoded(Image.fromarray(pixels)))

    assert image.mode == "RGB"
    np.testing.assert_allclose(
        np.asarray(image)[0], [[255, 0, 0], [255, 255, 255], [127, 127, 127]], atol=1
    )


def test_gray_with_alpha_stays_gray_over_white() -> None:
    image = decode_image(encoded(Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8))))

    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), [[7, 255]])


def test_a_palettes_transparent_entry_shows_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([1, 2, 3, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    image = decode_image(encoded(picture, transparency=0))

    np.testing.assert_array_equal(np.asarray(image)[0], [[255, 255, 255], [200, 100, 50]])


@pytest.mark.parametrize(("mode", "clear", "solid"), [("L", 9, 80), ("1", 0, 1)])
def test_a_transparent_color_shows_white(mode: str, clear: int, solid: int) -> None:
    picture = Image.new(mode, (2, 1), clear)
    picture.putpixel((1, 0), solid)
    image = decode_image(encoded(picture, transparency=clear))

    assert np.asarray(image)[0].tolist() == [255, 80 if mode == "L" else 255]


def test_four_printing_colors_become_rgb() -> None:
    image = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))

    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image)[4, 4], [255, 0, 0], atol=3)


def test_16_bit_gray_is_scaled_not_clipped() -> None:
    values = np.array([[0, 256, 257, 32768, 65535]], np.uint16)
    image = decode_image(encoded(Image.fromarray(values)))

    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image)[0], np.round(values[0] / 257))


def test_the_transparent_color_of_16_bit_gray_shows_white() -> None:
    data = encoded(Image.fromarray(np.array([[1000, 2000]], np.uint16)))
    header_end = 8 + 25  # signature, IHDR
    data = data[:header_end] + png_chunk(b"tRNS", struct.pack(">H", 1000)) + data[header_end:]

    np.testing.assert_array_equal(np.asarray(decode_image(data)), [[255, 8]])


def png_of(depth: int, kind: int, row: bytes, clear: tuple[int, ...] = ()) -> bytes:
    """Return a PNG of two pixels of any depth; `clear` is its transparent colour."""
    header = struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    if clear:
        chunks.insert(1, (b"tRNS", struct.pack(f">{len(clear)}H", *clear)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        pytest.param(png_of(1, 0, b"\x40", (0,)), [255, 255], id="1 bit"),
        pytest.param(png_of(1, 0, b"\x40", (1,)), [0, 255], id="1 bit, white"),
        pytest.param(png_of(2, 0, b"\x60", (1,)), [255, 170], id="2 bits"),
        pytest.param(png_of(2, 0, b"\x60", (2,)), [85, 255], id="2 bits, the other"),
        pytest.param(png_of(4, 0, b"\x36", (3,)), [255, 102], id="4 bits"),
        pytest.param(png_of(8, 0, b"\x09\x50", (9,)), [255, 80], id="8 bits"),
        pytest.param(
            png_of(16, 2, struct.pack(">6H", 1000, 2000, 3000, 512, 0, 0), (1000, 2000, 3000)),
            [[255] * 3, [2, 0, 0]],
            id="color of 16 bits",
        ),
        pytest.param(
            png_of(16, 6, struct.pack(">8H", 0, 0, 0, 0, 0, 256, 65535, 65535)),
            [[255] * 3, [0, 1, 255]],
            id="color and alpha of 16 bits",
        ),
    ],
)
def test_transparent_pixels_are_white_at_every_depth(data: bytes, wanted: list[object]) -> None:
    assert np.asarray(decode_image(data))[0].tolist() == wanted


def test_gray_and_alpha_of_16_bits_are_laid_over_white() -> None:
    image = decode_image(png_of(16, 4, struct.pack(">4H", 1024, 65535, 1024, 0)))

    assert np.asarray(image.convert("L"))[0].tolist() == [4, 255]


def test_large_images_with_transparency_are_changed_strip_by_strip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (7, 5, 4), np.uint8)
    files = [
        encoded(Image.fromarray(noise)),
        encoded(Image.fromarray(noise.view(np.uint16)[..., 0])),
    ]
    whole = [np.asarray(decode_image(file)) for file in files]
    monkeypatch.setattr(images_module, "_STRIP_PIXELS", 10)

    for file, wanted in zip(files, whole, strict=True):
        np.testing.assert_array_equal(np.asarray(decode_image(file)), wanted)


@pytest.mark.parametrize(("side", "size"), [(0, (160, 96)), (100, (160, 96)), (20, (40, 24))])
def test_a_jpeg_may_be_decoded_smaller(side: int, size: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", (160, 96), "gray"), "JPEG")

    assert decode_image(data, side=side).size == size
    assert count_pixels(data, side=side) == size[0] * size[1]
    assert decode_image(encoded(Image.new("L", (160, 96))), side=side).size == (160, 96)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, LEFT_TO_RIGHT),
        (2, LEFT_TO_RIGHT[:, ::-1]),
        (3, LEFT_TO_RIGHT[::-1, ::-1]),
        (4, LEFT_TO_RIGHT[::-1]),
        (5, LEFT_TO_RIGHT.T),
        (6, np.rot90(LEFT_TO_RIGHT, -1)),
        (7, np.rot90(LEFT_TO_RIGHT, 2).T),
        (8, np.rot90(LEFT_TO_RIGHT, 1)),
        (99, LEFT_TO_RIGHT),
    ],
)
def test_exif_orientation_is_applied(
    orientation: int, upright: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(encoded(Image.fromarray(LEFT_TO_RIGHT), exif=exif))

    np.testing.assert_array_equal(np.asarray(image), upright)


def test_damaged_exif_is_ignored() -> None:
    data = encoded(Image.fromarray(LEFT_TO_RIGHT), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")

    np.testing.assert_array_equal(np.asarray(decode_image(data)), LEFT_TO_RIGHT)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    image = decode_image(
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    )

    assert np.asarray(image)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png_claiming(50_000, 50_000), id="png"),
        pytest.param(png_claiming(10_000, 10_000), id="png within Pillow's own limit of errors"),
        pytest.param(png_claiming(5_000, 5_000), id="png within Pillow's own limit of warnings"),
        pytest.param(webp_claiming(16_383, 16_383), id="webp"),
    ],
)
def test_a_decompression_bomb_is_refused_by_its_header(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"claims|damaged"):
        decode_image(data)


def test_the_limits_are_those_given() -> None:
    data = encoded(Image.new("L", (20, 10)))

    assert decode_image(data, ImageLimits(max_pixels=200)).size == (20, 10)
    with pytest.raises(ImageError, match="claims 20 x 10 pixels; expected at most 199 in all"):
        decode_image(data, ImageLimits(max_pixels=199))
    with pytest.raises(ImageError, match=f"has {len(data)} bytes; expected at most 8"):
        decode_image(data, ImageLimits(max_bytes=8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pixels_are_counted_from_the_header(kind: str) -> None:
    data = encoded(Image.new("L", (20, 10)), kind)

    assert count_pixels(data) == 200
    with pytest.raises(ImageError, match="claims 20 x 10 pixels"):
        count_pixels(data, ImageLimits(max_pixels=199))
    with pytest.raises(ImageError, match="not a PNG, JPEG or WebP image"):
        count_pixels(b"GIF89a")
    assert count_pixels(png_claiming(100, 100)) == 10_000


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_image_is_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)

    with pytest.raises(ImageError, match=r"damaged|not a PNG, JPEG or WebP image"):
        decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: b"", id="empty"),
        pytest.param(lambda: b"These are words, not pixels.\n", id="text"),
        pytest.param(lambda: encoded(Image.new("L", (4, 4)), "GIF"), id="gif"),
        pytest.param(lambda: encoded(Image.new("L", (4, 4)), "TIFF"), id="tiff"),
        pytest.param(lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", id="eps"),
    ],
)
def test_what_is_none_of_the_formats_is_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(ImageError, match="not a PNG, JPEG or WebP image"):
        decode_image(make())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_bytes_give_an_image_or_an_image_error(kind: str) -> None:
    random = np.random.default_rng(1)
    noise = random.integers(0, 256, (16, 16, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for _ in range(150):
        changed = bytearray(data)
        for position in random.integers(0, len(data), 4):
            changed[position] = int(random.integers(256))
        try:
            assert decode_image(bytes(changed)).mode in ("L", "RGB")
        except ImageError as error:
            assert len(error.problems) == 1
