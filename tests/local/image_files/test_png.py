"""PNGs are written by hand here: encoders offer few of the kinds that exist."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import ImageError, decode_image, survey_image
from kshot.local.image_files.png import GRAY, GRAY_ALPHA, INDEXED, RGB, RGB_ALPHA, SIGNATURE
from kshot.local.image_files.survey import MAX_PARTS

Chunks = Sequence[tuple[bytes, bytes]]
CHANNELS = {GRAY: 1, RGB: 3, INDEXED: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
DEPTHS = {
    GRAY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    INDEXED: (1, 2, 4, 8),
    GRAY_ALPHA: (8, 16),
    RGB_ALPHA: (8, 16),
}
SIDE = 9


def chunk(name: bytes, content: bytes, spoil: int = 0) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content) ^ spoil)
    return struct.pack(">I", len(content)) + name + content + checksum


def png(
    samples: np.ndarray[tuple[int, ...], np.dtype[np.uint16]],
    depth: int,
    kind: int,
    *,
    before: Chunks = (),
    behind: Chunks = (),
    rows: int | None = None,
    interlaced: bool = False,
) -> bytes:
    """Return a PNG of samples `(height, width, channels)`, or of its first rows alone."""
    height, width, _ = samples.shape
    passes = [samples]
    if interlaced:
        passes = [
            samples[top::down, left::right]
            for left, top, right, down in (
                (0, 0, 8, 8),
                (4, 0, 8, 8),
                (0, 4, 4, 8),
                (2, 0, 4, 4),
                (0, 2, 2, 4),
                (1, 0, 2, 2),
                (0, 1, 1, 2),
            )
        ]
    lines = [packed(row, depth) for part in passes for row in part if row.size]
    data = b"".join(b"\0" + line for line in lines[:rows])
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(data)), *behind, (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(*each) for each in chunks)


def packed(row: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], depth: int) -> bytes:
    values = row.reshape(-1)
    if depth == 16:
        return values.astype(">u2").tobytes()
    bits = (values[:, None] >> np.arange(depth - 1, -1, -1)) & 1  # (samples, depth)
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def noise(depth: int, kind: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    shape = (SIDE, SIDE, CHANNELS[kind])
    return np.random.default_rng(depth).integers(0, 2**depth, shape, np.uint16)


KINDS = [(kind, depth) for kind, depths in DEPTHS.items() for depth in depths]


def scaled(samples: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], depth: int) -> np.ndarray:
    if depth == 16 and samples.shape[2] == 1:
        return np.round(samples / 257)
    return samples >> 8 if depth == 16 else samples.astype(int) * 255 // (2**depth - 1)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "depth"), KINDS)
def test_transparent_pixels_are_white_in_every_kind(
    kind: int, depth: int, interlaced: bool
) -> None:
    """One rule: what is transparent is white, all else what it would be without transparency."""
    samples = noise(depth, kind)
    before: list[tuple[bytes, bytes]] = []
    if kind in (GRAY, RGB):
        color = samples[4, 4]
        samples[0, :3] = color
        samples[0, 3] = color ^ 1  # a neighbour in the last bit stays what it is
        clear = (samples == color).all(axis=2)
        before = [(b"tRNS", color.astype(">u2").tobytes())]
        wanted = scaled(samples, depth)
    elif kind == INDEXED:
        palette = np.random.default_rng(1).integers(0, 256, (2**depth, 3), np.uint8)
        alpha = np.where(np.arange(2**depth) % 2, 255, 0).astype(np.uint8)
        clear = samples[..., 0] % 2 == 0
        before = [(b"PLTE", palette.tobytes()), (b"tRNS", alpha.tobytes())]
        wanted = palette[samples[..., 0]]
    else:
        samples[..., -1] = np.where(samples[..., -1] % 2, 2**depth - 1, 0)
        clear = samples[..., -1] == 0
        wanted = scaled(samples, depth)[..., :-1]
    wanted = np.where(clear[..., None], 255, wanted)

    decoded = np.asarray(
        decode_image(png(samples, depth, kind, before=before, interlaced=interlaced)).convert("RGB")
    )

    assert 0 < clear.sum() < clear.size
    np.testing.assert_array_equal(decoded, np.broadcast_to(wanted, decoded.shape))


def test_bits_above_the_depth_mean_nothing_in_a_transparent_colour() -> None:
    samples = np.array([[[1], [2]]], np.uint16)
    data = png(samples, 2, GRAY, before=[(b"tRNS", struct.pack(">H", 0xFF01))])

    assert np.asarray(decode_image(data))[0].tolist() == [255, 170]


def test_a_large_image_is_like_a_small_one() -> None:
    """Rows of a large one are not inflated twice; their last row tells whether all are there."""
    samples = np.full((300, 300, 3), 90, np.uint16)
    samples[:299] = 7
    data = png(samples, 8, RGB)

    np.testing.assert_array_equal(np.asarray(decode_image(data)), samples)
    for rows in (1, 150, 299):
        with pytest.raises(ImageError, match=f"expected 270300 bytes of rows, got {rows * 901}"):
            decode_image(png(samples, 8, RGB, rows=rows))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "depth"), KINDS)
def test_missing_rows_are_refused(kind: int, depth: int, interlaced: bool) -> None:
    before = [(b"PLTE", bytes(3 * 2**depth))] if kind == INDEXED else []
    data = png(noise(depth, kind), depth, kind, before=before, rows=4, interlaced=interlaced)

    with pytest.raises(ImageError, match=r"is damaged: expected \d+ bytes of rows, got \d+;"):
        decode_image(data)


BOMB = zlib.compress(bytes(20_000_000))


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param((b"tEXt", b"Comment\0" + bytes(2_000_000)), id="text of 2 MB"),
        pytest.param((b"zTXt", b"Comment\0\0" + BOMB), id="compressed text"),
        pytest.param((b"iTXt", b"Comment\0\1\0\0\0" + BOMB), id="international text"),
        pytest.param((b"iCCP", b"profile\0\0" + BOMB), id="colour profile"),
        pytest.param((b"iCCP", b"no profile"), id="damaged colour profile"),
        pytest.param((b"eXIf", b"II*\0\xff\xff\xff\xff"), id="damaged EXIF"),
        pytest.param((b"gAMA", b""), id="empty gamma"),
        pytest.param((b"pHYs", b"\0"), id="short size"),
        pytest.param((b"acTL", struct.pack(">II", 2**31 - 1, 0)), id="an animation"),
        pytest.param((b"fcTL", b"\0" * 26), id="a frame"),
        pytest.param((b"fdAT", b"\0" * 99), id="pixels of a frame"),
        pytest.param((b"qqQq", b"private"), id="private"),
    ],
)
def test_metadata_does_not_decide(extra: tuple[bytes, bytes]) -> None:
    samples = noise(8, GRAY)
    plain = np.asarray(decode_image(png(samples, 8, GRAY)))
    bad = chunk(*extra, spoil=1)
    good = png(samples, 8, GRAY)

    for data in (
        png(samples, 8, GRAY, before=[extra]),
        png(samples, 8, GRAY, behind=[extra]),
        good[:33] + bad + good[33:],
        good[:-12] + bad + good[-12:],
    ):
        np.testing.assert_array_equal(np.asarray(decode_image(data)), plain)


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT", b"tRNS"])
def test_checksums_of_what_decides_are_checked(name: bytes) -> None:
    before = [(b"PLTE", bytes(range(12))), (b"tRNS", b"\0\xff")]
    data = bytearray(png(noise(2, INDEXED), 2, INDEXED, before=before))
    at = data.index(name)
    data[at + 4 + int.from_bytes(data[at - 4 : at])] ^= 1

    with pytest.raises(ImageError, match=f"is damaged: .*checksum of its {name.decode()}"):
        decode_image(bytes(data))


def test_many_chunks_are_refused_before_anything_is_decoded() -> None:
    data = png(noise(8, GRAY), 8, GRAY)
    at = data.index(b"IDAT") - 4
    few = data[:at] + chunk(b"IDAT", b"") * 1000 + data[at:]
    many = data[:at] + chunk(b"IDAT", b"") * MAX_PARTS + data[at:]

    np.testing.assert_array_equal(np.asarray(decode_image(few)), np.asarray(decode_image(data)))
    with pytest.raises(ImageError, match=f"has more chunks than {MAX_PARTS}"):
        survey_image(many)


def test_a_stream_may_come_in_pieces_with_others_between() -> None:
    data = png(noise(8, GRAY), 8, GRAY)
    at = data.index(b"IDAT") - 4
    stream = data[at + 8 : -16]
    pieces = b"".join(
        chunk(b"IDAT", stream[start : start + 5]) + chunk(b"tEXt", b"between\0")
        for start in range(0, len(stream), 5)
    )

    np.testing.assert_array_equal(
        np.asarray(decode_image(data[:at] + pieces + data[-12:])), np.asarray(decode_image(data))
    )
    # Without an end all pixels are there.
    assert decode_image(data[:-12]).size == (SIDE, SIDE)


def test_a_stream_may_be_longer_than_its_rows_but_not_by_much() -> None:
    samples = noise(8, GRAY)
    taller = np.concatenate([samples] * 40)
    header = png(samples, 8, GRAY)[8:33]
    data = png(taller, 8, GRAY)

    longer = decode_image(SIGNATURE + header + data[33:])
    np.testing.assert_array_equal(np.asarray(longer), samples[..., 0])
    junk = chunk(b"IDAT", np.random.default_rng(0).bytes(70_000))
    with pytest.raises(ImageError, match=r"has \d+ compressed bytes for 90 bytes of rows"):
        survey_image(SIGNATURE + header + data[33:-12] + junk + data[-12:])


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ((0, 4, 8, 0, 0, 0, 0), "valid IHDR"),
        ((4, 2**31, 8, 0, 0, 0, 0), "valid IHDR"),
        ((4, 4, 3, 0, 0, 0, 0), "valid IHDR"),
        ((4, 4, 16, 3, 0, 0, 0), "valid IHDR"),
        ((4, 4, 4, 2, 0, 0, 0), "valid IHDR"),
        ((4, 4, 8, 5, 0, 0, 0), "valid IHDR"),
        ((4, 4, 8, 0, 1, 0, 0), "valid IHDR"),
        ((4, 4, 8, 0, 0, 1, 0), "valid IHDR"),
        ((4, 4, 8, 0, 0, 0, 2), "valid IHDR"),
        ((4, 4, 8, 3, 0, 0, 0), "expected a palette of 1 to 256 colors, got 0 bytes"),
        ((2**31 - 1, 2**31 - 1, 16, 6, 0, 0, 1), "claims 2147483647 x 2147483647 pixels"),
    ],
)
def test_headers_that_cannot_be_are_refused(header: tuple[int, ...], match: str) -> None:
    data = png(noise(8, GRAY), 8, GRAY)
    changed = SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + data[33:]

    with pytest.raises(ImageError, match=match):
        decode_image(changed)


@pytest.mark.parametrize(
    ("before", "match"),
    [
        ([(b"CgBI", b"\0\0\0\0")], "not a standard PNG: it has a chunk CgBI"),
        ([(b"IHDR", bytes(13))], "not a standard PNG: it has a chunk IHDR"),
        ([(b"tRNS", b"\0")], "expected 2 bytes in its tRNS chunk, got 1"),
        ([(b"t\0Xt", b"")], "expected a chunk at byte 33"),
    ],
)
def test_chunks_that_cannot_be_are_refused(before: Chunks, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        decode_image(png(noise(8, GRAY), 8, GRAY, before=before))


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_the_start_of_a_file_is_refused(length: int) -> None:
    with pytest.raises(ImageError):
        decode_image(png(noise(8, GRAY), 8, GRAY)[:length])


def exif(orientation: int) -> bytes:
    return (
        b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1" + struct.pack(">HH", orientation, 0) + bytes(4)
    )


RAW = b"\nexif\n      " + b"%d\n" % len(exif(6)) + exif(6).hex().encode() + b"\n"


@pytest.mark.parametrize(
    "extra",
    [
        (b"eXIf", exif(6)),
        (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
        (b"tEXt", b"Raw profile type exif\0" + RAW),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW)),
    ],
)
def test_the_orientation_is_read_from_all_its_places(extra: tuple[bytes, bytes]) -> None:
    samples = noise(8, GRAY)
    upright = np.rot90(samples[..., 0], -1)

    for place in ("before", "behind"):
        data = png(samples, 8, GRAY, **{place: [extra]})  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.asarray(decode_image(data)), upright)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_what_pillow_writes_is_read_as_pillow_reads_it(mode: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    with_mode = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
    assert survey_image(encoded(with_mode)).kind == "PNG"
    if mode != "I;16":
        flat = with_mode.convert("RGB")
        got = decode_image(encoded(with_mode)).convert("RGB")
        np.testing.assert_array_equal(np.asarray(got), np.asarray(flat))


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_a_stream_that_cannot_be_inflated_is_refused() -> None:
    data = png(noise(8, GRAY), 8, GRAY)
    at = data.index(b"IDAT") - 4

    with pytest.raises(ImageError, match="got 0 and then none that can be read"):
        decode_image(data[:at] + chunk(b"IDAT", b"junk") + data[-12:])
