from __future__ import annotations

import struct
import zlib

import pytest

from kshot.local.image_files import orientation as module
from kshot.local.image_files.orientation import Orientation, by_exif, by_xmp


def exif(tag: int = 0x0112, kind: int = 3, value: int = 6, order: str = "<") -> bytes:
    mark = b"II" if order == "<" else b"MM"
    entries = struct.pack(f"{order}HHHIHHHHIHH", 2, 0x010F, 3, 1, 9, 0, tag, kind, 1, value, 0)
    return mark + struct.pack(f"{order}HI", 42, 8) + entries + bytes(4)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (exif(), 6),
        (exif(order=">"), 6),
        (b"Exif\0\0" + exif(value=8), 8),
        (exif(value=0), 0),
        (exif(value=9), 0),
        (exif(kind=4), 0),
        (exif(tag=0x0113), 0),
        (exif()[:20], 0),
        (exif()[:6], 0),
        (b"II*\0\xff\xff\xff\xff", 0),
        (b"II*\0\x08\0\0\0\xff\xff" + bytes(50), 0),
        (b"words", 0),
        (b"", 0),
    ],
)
def test_exif_tells_an_orientation_or_none(content: bytes, wanted: int) -> None:
    assert by_exif(content) == wanted


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b'<x tiff:Orientation="6"/>', 6),
        (b"<tiff:Orientation>3</tiff:Orientation>", 3),
        (b'<x tiff:Orientation="9"/>', 0),
        (b"words", 0),
    ],
)
def test_xmp_tells_an_orientation_or_none(content: bytes, wanted: int) -> None:
    assert by_xmp(content) == wanted


def test_exif_counts_more_than_xmp() -> None:
    found = Orientation()
    assert found.found == 1
    found.see_xmp(b'tiff:Orientation="3"')
    assert found.found == 3
    found.see_exif(exif())
    assert found.found == 6


RAW = b"\nexif\n  9\n" + exif().hex().encode()


@pytest.mark.parametrize(
    ("kind", "content", "wanted"),
    [
        (b"tEXt", b"Raw profile type exif\0" + RAW, 6),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW), 6),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW)[:20], 1),
        (b"zTXt", b"Raw profile type exif\0\0junk", 1),
        (b"tEXt", b"Raw profile type exif\0" + RAW[:-1], 6),
        (b"tEXt", b"Raw profile type exif\0words", 1),
        (b"tEXt", b"Comment\0" + RAW, 1),
        (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation="6"', 6),
        (b"iTXt", b'Comment\0\0\0\0\0tiff:Orientation="6"', 1),
    ],
)
def test_texts_of_png_tell_it(kind: bytes, content: bytes, wanted: int) -> None:
    found = Orientation()
    found.see_png_text(kind, content)

    assert found.found == wanted


def test_only_a_few_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may hold thousands, each of which takes long."""
    read: list[int] = []
    for name in ("by_exif", "by_xmp", "_by_raw_profile"):
        monkeypatch.setattr(module, name, lambda *_: read.append(0) or 0)
    found = Orientation()

    for _ in range(100):
        found.see_exif(b"")
        found.see_xmp(b"")
        found.see_png_text(b"tEXt", b"Raw profile type exif\0")

    assert len(read) == 8
