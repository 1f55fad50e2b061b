from __future__ import annotations

import io
import re
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import ImageError, decode_image, survey_image
from kshot.local.image_files import jpeg as jpeg_module
from kshot.local.image_files.jpeg import MAX_SCANS
from kshot.local.image_files.survey import MAX_PARTS

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)).resize(
    (168, 120)
)
SIDES = (0, 60, 15)
ADOBE = b"Adobe\0\x64\0\0\0\0"


def jpeg(mode: str = "RGB", **options: Any) -> bytes:  # noqa: ANN401 -- Pillow's
    stream = io.BytesIO()
    PICTURE.convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def as_pillow(data: bytes, side: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(data)) as image:
        if side:
            image.draft(None, (side, side))
        return np.asarray(image.convert("L" if image.mode == "L" else "RGB"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 2, "quality": 30},
        {"optimize": True},
        {"restart_marker_blocks": 3},
        {"restart_marker_rows": 1},
        {"progressive": True, "restart_marker_blocks": 5},
        {"dpi": (300, 300), "comment": b"words"},
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_pixels_are_those_of_pillow(mode: str, options: dict[str, Any]) -> None:
    """At whatever size it is decoded; the claimed pixels are those that are held."""
    data = jpeg(mode, **options)
    found = survey_image(data)

    for side in SIDES:
        decoded = decode_image(data, side=side)
        np.testing.assert_array_equal(np.asarray(decoded), as_pillow(data, side))
        whole = options.get("progressive", False)
        assert found.pixels(side) == (168 * 120 if whole else decoded.width * decoded.height)


def color_bytes(data: bytes, transform: int | None) -> bytes:
    """Return the file with an Adobe segment that names a transform, or without one."""
    data = re.sub(rb"\xff\xee\0\x0eAdobe.{7}", b"", data, flags=re.DOTALL)
    if transform is None:
        return data
    return data[:2] + segment(0xEE, ADOBE + bytes((transform,))) + data[2:]


@pytest.mark.parametrize("transform", [None, 0, 2])
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_what_tells_the_kind_of_colors_is_kept(mode: str, transform: int | None) -> None:
    """CMYK, inverted by Adobe's rule, and YCCK; RGB that is not YCbCr."""
    data = color_bytes(jpeg(mode), transform)
    data = re.sub(rb"\xff\xe0\0\x10JFIF.{10}", b"", data, flags=re.DOTALL)

    np.testing.assert_array_equal(np.asarray(decode_image(data)), as_pillow(data))


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xFE, b"words" * 9999),
        segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)) * 40,
        segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(60_000)),
        segment(0xE2, b"MPF\0II*\0\x08\0\0\0" + bytes(100)),
        segment(0xE0, b"JFXX\0\x10" + b"\xff\xd8\xff\xda\0\0"),
        segment(0xED, b"Photoshop 3.0\0" + b"\xff\xd9" * 100),
        segment(0xEE, b"Adob"),
        b"\xff" * 5000,
    ],
)
def test_metadata_does_not_decide(extra: bytes) -> None:
    data = jpeg()

    changed = data[:2] + extra + data[2:]

    np.testing.assert_array_equal(np.asarray(decode_image(changed)), as_pillow(data))


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_markers_are_found_wherever_they_stand(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg(progressive=True, restart_marker_blocks=3)
    wanted = survey_image(data)
    monkeypatch.setattr(jpeg_module, "_WINDOW", window)

    assert survey_image(data) == wanted


def test_what_follows_the_first_image_is_left_out() -> None:
    """Phones write several pictures, and videos, into one file."""
    data = jpeg()
    several = data + jpeg("L") + b"\0\0\0\x18ftypmp42"

    np.testing.assert_array_equal(np.asarray(decode_image(several)), as_pillow(data))


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.97])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimize": True},
        {"restart_marker_blocks": 4},
        {"progressive": True},
        {"progressive": True, "restart_marker_blocks": 4},
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_cut_file_is_refused(
    mode: str, options: dict[str, Any], share: float, end: bytes
) -> None:
    """Decoders fill with gray what is missing, if only the end is there."""
    data = jpeg(mode, **options)
    if options.get("progressive") and share >= 0.8 and end:
        pytest.skip("a bit of precision is missing, no pixel")

    for side in (0, 15):
        with pytest.raises(ImageError, match="is damaged: "):
            decode_image(data[: int(len(data) * share)] + end, side=side)


def three_scans(levels: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> list[bytes]:
    """Return the parts of a JPEG with a scan for each component: levels `(3, blocks)`, 0 to 127.

    A code of four bits tells how many bits the difference of two levels has, and a bit ends it.
    """
    blocks = levels.shape[1]
    frame = struct.pack(">BHHB", 8, 8, 8 * blocks, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
    parts = [
        b"\xff\xd8"
        + segment(0xDB, b"\0" + b"\x08" * 64)
        + segment(0xC0, frame)
        + segment(0xC4, b"\0" + bytes((0, 0, 0, 8, *[0] * 12)) + bytes(range(8)))
        + segment(0xC4, b"\x10" + bytes((1, *[0] * 15)) + b"\0")
    ]
    for component, row in enumerate(levels, 1):
        bits = ""
        for step in np.diff(row, prepend=0).tolist():
            size = abs(step).bit_length()
            value = step if step > 0 else step + 2**size - 1
            bits += f"{size:04b}" + (f"{value:0{size}b}" if size else "") + "0"
        bits += "1" * (-len(bits) % 8)
        codes = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
        parts.append(segment(0xDA, bytes((1, component, 0, 0, 63, 0))) + codes)
    return parts


def test_a_cut_last_scan_is_refused() -> None:
    """Files with a scan for each component: what is missing would have a color of its own."""
    levels = np.random.default_rng(0).integers(0, 128, (3, 200))
    parts = three_scans(levels)
    data = b"".join(parts) + b"\xff\xd9"

    np.testing.assert_array_equal(np.asarray(decode_image(data)), as_pillow(data))
    for cut in (1, len(parts[-1]) // 2, len(parts[-1]) - 11):
        with pytest.raises(ImageError, match="is damaged: codes of its last scan are missing"):
            decode_image(b"".join(parts)[:-cut] + b"\xff\xd9")
    for few in (parts[:-1], parts[:1]):
        with pytest.raises(ImageError, match="is damaged: it lacks scans"):
            decode_image(b"".join(few) + b"\xff\xd9")


def test_without_its_end_a_whole_image_is_taken() -> None:
    data = jpeg()

    np.testing.assert_array_equal(np.asarray(decode_image(data[:-2])), as_pillow(data))


def test_a_missing_part_between_restarts_is_refused() -> None:
    """Eight restarts fewer have the same numbers."""
    data = jpeg(restart_marker_blocks=1)
    restarts = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data)]

    with pytest.raises(ImageError, match="expected 87 restart markers in a scan, got 79"):
        decode_image(data[: restarts[10]] + data[restarts[18] :])


def last_scan(data: bytes) -> bytes:
    """Return the header of the last scan."""
    return data[data.rindex(b"\xff\xda") :][:10]


def test_many_scans_are_refused_before_anything_is_decoded() -> None:
    """Each one costs time for every block, even without data."""
    data = jpeg("L", progressive=True)
    header, scans = last_scan(data), data.count(b"\xff\xda")
    room = MAX_SCANS - scans

    assert survey_image(data[:-2] + header * room + b"\xff\xd9").whole
    assert survey_image(data[:-2] + header + b"\xff\xd9").seconds > survey_image(data).seconds
    with pytest.raises(ImageError, match="has more scans than 100; expected at most that many"):
        survey_image(data[:-2] + header * (room + 1) + b"\xff\xd9")


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (segment(0xFE, b"") * MAX_PARTS, f"has more segments than {MAX_PARTS}"),
        ((segment(0xDD, b"\0\0") + segment(0xFE, b"")) * 1100, "has more segments apart than"),
        (b"\xff\xc4\xff\xff" + bytes(100), "its segment at byte 2 ends after"),
        (b"\xff\xc4\0\1", "its segment at byte 2 ends after"),
        (segment(0xC3, b""), "is neither a baseline nor a progressive JPEG"),
        (segment(0xC0, b"\x08\0\1\0\1"), "expected one whole frame header"),
        (segment(0xC0, b"\x08\0\1\0\1\1\1\x11\0") * 2, "expected one whole frame header"),
        (segment(0xC0, b"\x08\0\1\0\1\1\1\x01\0"), "expected a valid frame header"),
        (segment(0xC0, b"\x0c\0\1\0\1\1\1\x11\0"), "has 1 channels of 12 bits"),
        (segment(0xC0, b"\x08\0\1\0\1\2" + b"\1\x11\0" * 2), "has 2 channels of 8 bits"),
        (segment(0xC0, b"\x08\0\0\0\1\1\1\x11\0"), "claims 1 x 0 pixels"),
        (segment(0xDA, b"\1\1\0\0\x3f\0"), "expected a valid scan header"),
        (segment(0xDA, b""), "expected a valid scan header"),
    ],
)
def test_segments_that_cannot_be_are_refused(extra: bytes, match: str) -> None:
    data = jpeg()

    with pytest.raises(ImageError, match=match):
        decode_image(data[:2] + extra + data[2:])


@pytest.mark.parametrize("length", [2, 3, 4, 20, 200])
def test_the_start_of_a_file_is_refused(length: int) -> None:
    with pytest.raises(ImageError, match="is damaged: "):
        decode_image(jpeg()[:length])


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\3\0\0\0" + bytes(4)),
        segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="3"/>'),
    ],
)
def test_the_orientation_is_read(extra: bytes) -> None:
    data = jpeg()

    turned = decode_image(data[:2] + extra + data[2:])

    np.testing.assert_array_equal(np.asarray(turned), as_pillow(data)[::-1, ::-1])
