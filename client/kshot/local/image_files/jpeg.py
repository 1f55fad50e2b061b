"""JPEG: its segments and scans are counted and checked, and those that decide are kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from kshot.local.image_files.orientation import Orientation
from kshot.local.image_files.survey import MAX_PARTS, Span, Survey, damaged, refuse, too_many

START, END = b"\xff\xd8", b"\xff\xd9"

MAX_SCANS = 100
"""The most scans of a file; encoders write about ten."""
_MAX_KEPT = 1024

_SOF = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # baseline, extended, progressive; the last two arithmetic
_OTHER_SOF = (0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xCB, 0xCD, 0xCE, 0xCF)
_PROGRESSIVE = (0xC2, 0xCA)
_TABLES = (0xC4, 0xCC, 0xDB, 0xDD)  # DHT, DAC, DQT, DRI
_SOS, _EOI, _DRI = 0xDA, 0xD9, 0xDD
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
_XMP = b"http://ns.adobe.com/xap"
_NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# Searched at a time: other threads come in between.
_WINDOW = 2**20
# Bits that no code begins with: a decoder that needs them lacks blocks, and finds no end.
_NO_MORE = b"\xff\x00" * 8
_COEFFICIENTS = 64

# Measured: transforms and colors of a pixel, codes of a byte, blocks that a scan only visits.
_PIXEL_SECONDS, _BYTE_SECONDS, _BLOCK_SECONDS = 8e-9, 20e-9, 15e-9


@dataclass
class _Frame:
    """What the segments told so far; of each component its sampling, and the bits it lacks.

    `refines` tells of the last scan that it only adds bits to coefficients.
    """

    width: int = 0
    height: int = 0
    progressive: bool = False
    sampling: dict[int, Span] = field(default_factory=dict)
    lacking: dict[int, list[int]] = field(default_factory=dict)
    scans: int = 0
    refines: bool = False
    ended: bool = False
    blocks: int = 0
    restart_interval: int = 0
    kept: list[Span] = field(default_factory=list)
    orientation: Orientation = field(default_factory=Orientation)


def survey(data: bytes) -> Survey:
    """Return what the segments tell; raise `ImageFileError` if they cannot be an image's."""
    frame = _Frame()
    for marker, start, stop, end in _segments(data):
        content = data[start + 4 : stop]
        if marker == _EOI:
            frame.ended = True
            break
        if marker in _SOF:
            _read_frame(content, frame)
            frame.progressive = marker in _PROGRESSIVE
        elif marker in _OTHER_SOF:
            refuse("is neither a baseline nor a progressive JPEG; save it again")
        elif marker == _SOS:
            _read_scan(content, data, (stop, end), frame)
        elif marker == _DRI:
            frame.restart_interval = int.from_bytes(content[:2])
        elif marker == _APP1:
            see = (
                frame.orientation.see_xmp
                if content.startswith(_XMP)
                else frame.orientation.see_exif
            )
            see(content)
        elif not (marker in _TABLES or _tells_colors(marker, content)):
            continue
        if marker != _APP1:
            _keep((start, end), frame.kept)
    whole = frame.progressive or frame.scans > 1
    lacks = any(any(lacking) for lacking in frame.lacking.values())
    if not frame.scans or lacks or (whole and not frame.ended):
        damaged("it lacks scans, or the end of the last one")
    pixels = frame.width * frame.height
    seconds = (
        pixels * len(frame.sampling) * _PIXEL_SECONDS
        + len(data) * _BYTE_SECONDS
        + frame.blocks * _BLOCK_SECONDS
    )
    return Survey(
        "JPEG",
        frame.width,
        frame.height,
        seconds,
        tuple(frame.kept),
        frame.orientation.found,
        scales=True,
        whole=whole,
        unsure=whole and not frame.refines,
    )


def plain(data: bytes, found: Survey) -> bytes:
    """Return the file without metadata.

    What has all in one scan has no end of image either: a decoder that gets to it lacks blocks.
    """
    parts = [data[start:stop] for start, stop in found.kept]
    return b"".join((START, *parts, END if found.whole else _NO_MORE))


def longer(plain: bytes) -> bytes:
    """Return a file with more codes in its last scan: it gives other pixels if some were missing.

    Decoders fill them with gray, without a word. Not needed behind a scan that only refines: all
    that may be missing there is a bit of precision.
    """
    return plain.removesuffix(END) + bytes(range(254, -1, -1)) + END


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield the marker of each segment, where it starts and stops, and where its scan ends."""
    at = len(START)
    for _ in range(MAX_PARTS):
        at = _next_marker(data, at)
        if at == len(data):
            return
        marker = data[at + 1]
        if marker == _EOI:
            yield marker, at, at + 2, at + 2
            return
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if stop < at + 4 or stop > len(data):
            damaged(f"its segment at byte {at} ends after {len(data) - at} bytes")
        end = stop
        if marker == _SOS:
            end = _next_marker(data, stop)
        yield marker, at, stop, end
        at = end
    too_many("segments", MAX_PARTS)


def _next_marker(data: bytes, at: int) -> int:
    """Return where the next marker stands that does not belong to a scan, else the end."""
    for start in range(at, len(data), _WINDOW):
        if found := _NEXT.search(data, start, start + _WINDOW + 1):
            return found.start()
    return len(data)


def _tells_colors(marker: int, content: bytes) -> bool:
    """Tell whether decoders read the kind of the colors from a segment."""
    names = {_APP0: b"JFIF\0", _APP14: b"Adobe"}
    return marker in names and content.startswith(names[marker])


def _keep(span: Span, kept: list[Span]) -> None:
    if kept and kept[-1][1] == span[0]:
        span = kept.pop()[0], span[1]
    elif len(kept) == _MAX_KEPT:
        too_many("segments apart", _MAX_KEPT)
    kept.append(span)


def _read_frame(content: bytes, frame: _Frame) -> None:
    """Read a SOF segment: the size, and the sampling of each component."""
    if frame.sampling or len(content) < 6 or len(content) < 6 + 3 * content[5]:
        damaged("expected one whole frame header")
    depth, count = content[0], content[5]
    frame.height, frame.width = int.from_bytes(content[1:3]), int.from_bytes(content[3:5])
    if depth != 8 or count not in (1, 3, 4):
        refuse(
            f"has {count} channels of {depth} bits; expected 1, 3 or 4 channels of 8 bits; save "
            "it again"
        )
    for at in range(6, 6 + 3 * count, 3):
        across, down = content[at + 1] >> 4, content[at + 1] & 15
        frame.sampling[content[at]] = across, down
        frame.lacking[content[at]] = [1] * _COEFFICIENTS
    if not all(1 <= each <= 4 for pair in frame.sampling.values() for each in pair):
        damaged("expected a valid frame header")
    if not (frame.width and frame.height):
        damaged(f"claims {frame.width} x {frame.height} pixels")


def _read_scan(content: bytes, data: bytes, codes: Span, frame: _Frame) -> None:
    """Count a scan, which has its codes between two places of the file."""
    frame.scans += 1
    if frame.scans > MAX_SCANS:
        too_many("scans", MAX_SCANS)
    count = content[0] if content else 0
    named = content[1 : 1 + 2 * count : 2]
    if not count or len(content) < 4 + 2 * count or not frame.sampling.keys() >= set(named):
        damaged("expected a valid scan header")
    first, last, bits = content[1 + 2 * count : 4 + 2 * count]
    for component in named:
        lacking = frame.lacking[component]
        if not frame.progressive:
            lacking[:] = [0] * _COEFFICIENTS
        elif first <= last < _COEFFICIENTS:
            lacking[first : last + 1] = [bits & 15] * (last + 1 - first)
    frame.refines = frame.progressive and bits >> 4 > 0
    units = _units(frame, named)
    frame.blocks += units * count
    if frame.restart_interval:
        wanted = -(-units // frame.restart_interval) - 1
        found = sum(1 for _ in islice(_RESTART.finditer(data, *codes), max(0, wanted)))
        if found < wanted:
            damaged(f"expected {wanted} restart markers in a scan, got {found}")


def _units(frame: _Frame, named: bytes) -> int:
    """Return the coded units of a scan: one component comes by blocks, more by groups of blocks."""
    widest = max(across for across, _ in frame.sampling.values())
    tallest = max(down for _, down in frame.sampling.values())
    if len(named) > 1:
        return -(-frame.width // (8 * widest)) * -(-frame.height // (8 * tallest))
    across, down = frame.sampling[named[0]]
    width = -(-frame.width * across // widest)
    height = -(-frame.height * down // tallest)
    return -(-width // 8) * -(-height // 8)
