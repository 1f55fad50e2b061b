"""PNG: its chunks are counted and checked, and those that decide about pixels are kept."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from kshot.local.image_files.orientation import Orientation
from kshot.local.image_files.survey import MAX_PARTS, Span, Survey, damaged, refuse, too_many

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, INDEXED, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6

_CHANNELS = {GRAY: 1, RGB: 3, INDEXED: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
_DEPTHS = {GRAY: (1, 2, 4, 8, 16), INDEXED: (1, 2, 4, 8)}
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# Of each pass of an interlaced image: the first column and row, and the steps between them.
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_WINDOW = 2**16

# Measured: filters and copies of a byte; at worst, tables for a byte of the compressed stream.
_ROW_SECONDS, _STREAM_SECONDS = 15e-9, 100e-9


@dataclass(frozen=True)
class Header:
    """The IHDR chunk; `kind` is the colour type."""

    width: int
    height: int
    depth: int
    kind: int
    interlaced: bool

    def row_bytes(self) -> int:
        """Return the bytes of all rows, each with the byte of its filter."""
        bits = self.depth * _CHANNELS[self.kind]
        passes = _PASSES if self.interlaced else ((0, 0, 1, 1),)
        total = 0
        for left, top, right, down in passes:
            width = -(-(self.width - left) // right)
            height = -(-(self.height - top) // down)
            if width > 0 and height > 0:
                total += height * (1 + -(-width * bits // 8))
        return total


@dataclass(frozen=True)
class Plain:
    """A PNG without metadata, and its transparent colour, `()` if it has none.

    `stream` is where its compressed rows stand, `row_bytes` their size inflated.
    """

    data: bytes
    header: Header
    clear: tuple[int, ...]
    stream: Span
    row_bytes: int


def survey(data: bytes) -> Survey:
    """Return what the chunks tell; raise `ImageFileError` if they cannot be an image's."""
    header = _header(data)
    stream, orientation = 0, Orientation()
    for name, start, stop in _chunks(data):
        if name == b"IDAT":
            stream += stop - start
        elif name == b"eXIf":
            orientation.see_exif(data[start:stop])
        elif name in _TEXTS:
            orientation.see_png_text(name, data[start:stop])
    rows = header.row_bytes()
    if stream > rows + rows // 4 + 16 * header.height + _WINDOW:
        refuse(f"has {stream} compressed bytes for {rows} bytes of rows; save it again")
    seconds = rows * _ROW_SECONDS + stream * _STREAM_SECONDS
    return Survey("PNG", header.width, header.height, seconds, orientation=orientation.found)


def plain(data: bytes) -> Plain:
    """Return the file without metadata; raise `ImageFileError` if it is damaged."""
    header, view = _header(data), memoryview(data)
    palette, clear = b"", b""
    stream: list[memoryview] = []
    for name, start, stop in _chunks(data):
        if name == b"IEND" or (name[0] & 0x20 and name != b"tRNS"):
            continue
        if zlib.crc32(view[start - 4 : stop]) != int.from_bytes(data[stop : stop + 4]):
            damaged(f"expected the checksum of its {name.decode()} chunk, got another")
        if name == b"IDAT":
            stream.append(view[start:stop])
        elif name == b"PLTE":
            if header.kind == INDEXED and not (stream or palette):
                palette = data[start:stop]
        elif name == b"tRNS" and not (stream or clear):
            clear = data[start:stop]
        elif name != b"tRNS" and start != len(SIGNATURE) + 8:  # which is the header
            refuse(f"is not a standard PNG: it has a chunk {name.decode()}; save it again")
    if header.kind == INDEXED and (len(palette) % 3 or not 3 <= len(palette) <= 768):
        damaged(f"expected a palette of 1 to 256 colors, got {len(palette)} bytes")
    kept = [_chunk(b"IHDR", data[16:29])]
    if header.kind == INDEXED:
        kept.append(_chunk(b"PLTE", palette))
        if clear:
            kept.append(_chunk(b"tRNS", clear[: len(palette) // 3]))
    start = len(SIGNATURE) + sum(map(len, kept)) + 8
    joined = b"".join(stream)
    span = start, start + len(joined)
    kept += [_chunk(b"IDAT", joined), _chunk(b"IEND", b"")]
    color = _clear_color(clear, header)
    return Plain(SIGNATURE + b"".join(kept), header, color, span, header.row_bytes())


def check_rows(file: Plain) -> None:
    """Raise `ImageFileError` unless all rows are there; what follows them is let be."""
    stream = memoryview(file.data)[slice(*file.stream)]
    inflater, got, wanted = zlib.decompressobj(), 0, file.row_bytes
    try:
        for start in range(0, len(stream), _WINDOW):
            rest: bytes | memoryview = stream[start : start + _WINDOW]
            more = True
            while more and got < wanted:
                most = min(wanted - got, 16 * _WINDOW)
                made = len(inflater.decompress(rest, most))
                rest, got, more = inflater.unconsumed_tail, got + made, made == most
            if got == wanted:
                return
    except zlib.error:
        damaged(f"expected {wanted} bytes of rows, got {got} and then none that can be read")
    damaged(f"expected {wanted} bytes of rows, got {got}")


def _clear_color(content: bytes, header: Header) -> tuple[int, ...]:
    """Return the one transparent colour of an image without alpha or palette."""
    if not content or header.kind not in (GRAY, RGB):
        return ()
    channels = _CHANNELS[header.kind]
    if len(content) != 2 * channels:
        damaged(f"expected {2 * channels} bytes in its tRNS chunk, got {len(content)}")
    # The bits above the depth mean nothing.
    return tuple(value & (2**header.depth - 1) for value in struct.unpack(f">{channels}H", content))


def _header(data: bytes) -> Header:
    if data[8:16] != b"\0\0\0\x0dIHDR" or len(data) < 33:
        damaged("expected an IHDR chunk first")
    width, height, depth, kind, method, filters, interlace = struct.unpack_from(
        ">IIBBBBB", data, 16
    )
    if (
        kind not in _CHANNELS
        or depth not in _DEPTHS.get(kind, (8, 16))
        or (method, filters) != (0, 0)
        or interlace > 1
        or not (0 < width < 2**31 and 0 < height < 2**31)
    ):
        damaged("expected a valid IHDR chunk")
    return Header(width, height, depth, kind, interlace == 1)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, and where its content starts and stops.

    What follows the last whole chunk is left out.
    """
    at, last = len(SIGNATURE), len(data)
    for _ in range(MAX_PARTS):
        if at + 12 > last:
            return
        size, name = struct.unpack_from(">I4s", data, at)
        stop = at + 8 + size
        if not name.isalpha():
            damaged(f"expected a chunk at byte {at}, got none")
        if stop + 4 > last:
            if name == b"IDAT":
                damaged(f"its IDAT chunk ends after {last - at - 8} of {size} bytes")
            return
        yield name, at + 8, stop
        if name == b"IEND":
            return
        at = stop + 4
    too_many("chunks", MAX_PARTS)


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return b"".join((struct.pack(">I", len(content)), name, content, struct.pack(">I", checksum)))
