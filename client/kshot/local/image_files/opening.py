"""What a PNG, JPEG or WebP claims, and the file without what decides nothing about pixels."""

from __future__ import annotations

from dataclasses import dataclass

from kshot.local.image_files import jpeg, png, webp
from kshot.local.image_files.survey import Survey, refuse
from kshot.local.image_formats import other_format


@dataclass(frozen=True)
class PlainFile:
    """A file for a decoder. A PNG has more to tell; of a JPEG see `jpeg.longer`."""

    data: bytes
    kind: str
    png: png.Plain | None = None
    longer: bytes = b""


def survey_file(data: bytes) -> Survey:
    """Return what a file claims; raise `ImageFileError` if it is not an image."""
    if data.startswith(png.SIGNATURE):
        return png.survey(data)
    if data.startswith(jpeg.START):
        return jpeg.survey(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return webp.survey(data)
    if not data:
        refuse("is empty, not a PNG, JPEG or WebP image")
    return refuse(f"is {other_format(data)}not a PNG, JPEG or WebP image; convert it first")


def plain_file(data: bytes, found: Survey) -> PlainFile:
    """Return the file without metadata; raise `ImageFileError` if it is damaged.

    The rows of a PNG are not counted: see `png.check_rows`.
    """
    if found.kind == "PNG":
        file = png.plain(data)
        return PlainFile(file.data, found.kind, file)
    if found.kind == "WEBP":
        return PlainFile(webp.plain(data, found), found.kind)
    plain = jpeg.plain(data, found)
    return PlainFile(plain, found.kind, longer=jpeg.longer(plain) if found.unsure else b"")
