"""WebP: its chunks are counted and checked, and those of the first frame are kept."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kshot.local.image_files.orientation import Orientation
from kshot.local.image_files.survey import MAX_PARTS, Span, Survey, damaged, too_many

_FIRST = 12  # the first chunk follows `RIFF`, the size and `WEBP`
_ALPHA, _ANIMATION = 0x10, 0x02
_LOSSY_START = b"\x9d\x01\x2a"
_LOSSLESS_START = 0x2F

# Measured: transforms and colors of a pixel, codes of a byte.
_PIXEL_SECONDS, _BYTE_SECONDS = 30e-9, 60e-9


def survey(data: bytes) -> Survey:
    """Return what the chunks tell; raise `ImageFileError` if they cannot be an image's."""
    canvas: Span | None = None
    kept: dict[bytes, Span] = {}
    orientation = Orientation()
    for name, start, stop in _chunks(data):
        if name in (b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF"):
            if name in kept:
                continue
            kept[name] = start, stop
            if name == b"VP8X" and stop - start >= 10:
                sides = data[start + 4 : start + 7], data[start + 7 : start + 10]
                width, height = (int.from_bytes(side, "little") + 1 for side in sides)
                canvas = width, height
            if stop > len(data):
                damaged(f"its {name.decode().strip()} chunk ends after {len(data) - start} bytes")
        elif name == b"EXIF":
            orientation.see_exif(data[start:stop])
        elif name == b"XMP ":
            orientation.see_xmp(data[start:stop])
    spans = [kept[name] for name in (b"VP8 ", b"VP8L") if name in kept]
    if not spans and b"ANMF" not in kept:
        damaged("it has no picture")
    width, height = canvas or _size(data, spans[0])
    if not (width and height):
        damaged(f"claims {width} x {height} pixels")
    used = sum(stop - start for start, stop in kept.values())
    seconds = width * height * _PIXEL_SECONDS + used * _BYTE_SECONDS
    return Survey("WEBP", width, height, seconds, tuple(kept.values()), orientation.found)


def plain(data: bytes, found: Survey) -> bytes:
    """Return the file without metadata, and without the frames behind the first."""
    body = [b"WEBP"]
    for start, stop in found.kept:
        content = data[start:stop]
        if data[start - 8 : start - 4] == b"VP8X":
            content = bytes((content[0] & (_ALPHA | _ANIMATION),)) + content[1:]
        body += [data[start - 8 : start], content, b"\0" * ((stop - start) % 2)]
    joined = b"".join(body)
    return b"RIFF" + struct.pack("<I", len(joined)) + joined


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, and where its content starts and stops."""
    at, last = _FIRST, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    for _ in range(MAX_PARTS):
        if at + 8 > last:
            return
        name, size = struct.unpack_from("<4sI", data, at)
        yield name, at + 8, at + 8 + size
        at += 8 + size + size % 2
    too_many("chunks", MAX_PARTS)


def _size(data: bytes, span: Span) -> Span:
    """Return width and height of a picture without a canvas."""
    content = data[span[0] : span[0] + 10]
    if content[:1] == bytes((_LOSSLESS_START,)) and len(content) >= 5:
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if content[3:6] == _LOSSY_START and len(content) == 10:
        width, height = struct.unpack_from("<HH", content, 6)
        return width & 0x3FFF, height & 0x3FFF
    return damaged("expected a picture's header")
