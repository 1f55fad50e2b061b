from __future__ import annotations

import io

import pytest
from PIL import Image

from kshot.bundle import ImageError, decode_image
from kshot.local.image_formats import other_format


def written(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (written("GIF"), "a GIF file"),
        (written("BMP"), "a BMP file"),
        (written("TIFF"), "a TIFF file"),
        (written("PDF"), "a PDF file"),
        (written("ICO"), "an ICO file"),
        (written("AVIF"), "an AVIF file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript file"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "a HEIC file"),
        (b"\0\0\0\x1cftypmp42\0\0\0\0", "a video file"),
        (b"\xef\xbb\xbf\n<!DOCTYPE HTML>", "an HTML file"),
        (b"<html><body>404", "an HTML file"),
        (b'<?xml version="1.0"?>', "an XML file"),
        (b"<svg xmlns=", "an SVG file"),
        (b"\x89PNG\n\x1a\n\0\0\0\rIHDR", "a PNG that was changed as text"),
        ("Wörter, keine Bilder\n".encode(), "text"),
        (b'{"error": 404}', "text"),
    ],
)
def test_a_file_of_another_format_is_named(data: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=f"is {name}, not a PNG, JPEG or WebP image; convert it"):
        decode_image(data)


def test_what_is_unknown_or_empty_has_no_name() -> None:
    assert other_format(bytes(range(99))) == ""
    with pytest.raises(ImageError, match="is not a PNG, JPEG or WebP image"):
        decode_image(bytes(99))
    with pytest.raises(ImageError, match="is empty, not a PNG, JPEG or WebP image"):
        decode_image(b"")
