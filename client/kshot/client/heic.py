"""Photographs of phones: HEIC becomes JPEG before it is sent, where a reader is installed."""

from __future__ import annotations

import io
from importlib.util import find_spec

from kshot.client.errors import InputError
from kshot.client.shrinking import encode_picture
from kshot.local.image_formats import HEAD_BYTES, format_of

HEIC = "HEIC"
REMEDY = "pip install pillow-heif lets the client read it"
_READER = "pillow_heif"


def has_reader() -> bool:
    """Tell whether HEIC can be read; nothing is imported."""
    return find_spec(_READER) is not None


def readable(content: bytes) -> bytes:
    """Return an image file as it is, or as a JPEG if it is HEIC; raises `InputError`."""
    if format_of(content[:HEAD_BYTES]) != HEIC:
        return content
    if not has_reader():
        raise InputError(f"a HEIC file; {REMEDY}, or convert it to PNG or JPEG")
    from pillow_heif import open_heif

    try:
        picture = open_heif(io.BytesIO(content)).to_pillow()
        # Compressed as a photograph, unless a part of it is transparent.
        picture.format = "PNG" if picture.has_transparency_data else "JPEG"
        return encode_picture(picture)
    except Exception as error:  # a decoder of another package, on damaged data
        raise InputError(f"a HEIC file that cannot be read: {error}") from error
