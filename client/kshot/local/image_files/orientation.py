"""How a camera was held, by EXIF or XMP; damaged metadata tells nothing."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

# A file has one or two; reading each takes time.
_MAX_READ = 8
_TAG = 0x0112
_SHORT = 3
_ENTRY_BYTES = 12
_XMP_KEYWORD, _RAW_KEYWORD = b"XML:com.adobe.xmp", b"Raw profile type exif"
_PREFIX = b"Exif\0\0"
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_RAW_PROFILE = re.compile(rb"\n\w+\n +\d+\n([0-9a-fA-F\n]+)")
_MOST_BYTES = 2**16


@dataclass
class Orientation:
    """Takes the first orientation that EXIF names, else the first of XMP."""

    exif: int = 0
    xmp: int = 0
    read: int = 0

    def see_exif(self, content: bytes) -> None:
        """Read EXIF unless much was read before."""
        if self._may_read():
            self.exif = self.exif or by_exif(content)

    def see_xmp(self, content: bytes) -> None:
        """Read XMP unless much was read before."""
        if self._may_read():
            self.xmp = self.xmp or by_xmp(content)

    def see_png_text(self, kind: bytes, content: bytes) -> None:
        """Read a text chunk of a PNG that holds XMP, or EXIF in hexadecimal as ImageMagick does."""
        keyword, _, text = content[:_MOST_BYTES].partition(b"\0")
        if kind == b"iTXt" and keyword == _XMP_KEYWORD:
            self.see_xmp(text)
        elif kind != b"iTXt" and keyword == _RAW_KEYWORD and self._may_read():
            self.exif = self.exif or _by_raw_profile(kind, text)

    @property
    def found(self) -> int:
        """Return the orientation, 1 to 8; 1 if none is named."""
        return self.exif or self.xmp or 1

    def _may_read(self) -> bool:
        self.read += 1
        return self.read <= _MAX_READ


def by_exif(content: bytes) -> int:
    """Return the orientation of EXIF, 1 to 8; 0 if it names none."""
    content = content.removeprefix(_PREFIX)[:_MOST_BYTES]
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        return 0
    try:
        (at,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, at)
        for start in range(at + 2, at + 2 + count * _ENTRY_BYTES, _ENTRY_BYTES):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", content, start)
            if tag == _TAG and kind == _SHORT:
                return value if 1 <= value <= 8 else 0
    except struct.error:
        pass
    return 0


def by_xmp(content: bytes) -> int:
    """Return the orientation of XMP, 1 to 8; 0 if it names none."""
    found = _XMP.search(content[:_MOST_BYTES])
    value = int(found[1]) if found else 0
    return value if value <= 8 else 0


def _by_raw_profile(kind: bytes, text: bytes) -> int:
    if kind == b"zTXt":
        try:
            text = zlib.decompressobj().decompress(text[1:], 2 * _MOST_BYTES)
        except zlib.error:
            return 0
    profile = _RAW_PROFILE.match(text)
    digits = profile[1].replace(b"\n", b"") if profile else b""
    return by_exif(bytes.fromhex(digits[: len(digits) // 2 * 2].decode()))
