"""The formats of files by their first bytes."""

from __future__ import annotations

_HEAD = 64
_STARTS = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG-2000"),
    (b"\xff\x4f\xff\x51", "JPEG-2000"),
    (b"\0\0\0\x0cJXL ", "JPEG-XL"),
    (b"\xff\x0a", "JPEG-XL"),
    (b"PK\3\4", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"\x93NUMPY", "NumPy array"),
    (b"\x89PNG", "PNG that was changed as text"),
)
_BRANDS = {
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"hevx": "HEIC",
    b"heim": "HEIC",
    b"heis": "HEIC",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
    b"avif": "AVIF",
    b"avis": "AVIF",
}
_WITH_AN = ("AVIF", "HTML", "ICO", "SVG", "XML")
_MARKUP = ((b"<svg", "SVG"), (b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<?xml", "XML"))


def other_format(data: bytes) -> str:
    """Return words like `a GIF, ` for a file that is not a PNG, JPEG or WebP, empty if unknown."""
    head = data[:_HEAD]
    for start, name in _STARTS:
        if head.startswith(start):
            return _phrase(name)
    if head[4:8] == b"ftyp":
        return _phrase(_BRANDS.get(head[8:12], "video"))
    markup = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, name in _MARKUP:
        if markup.startswith(start):
            return _phrase(name)
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "text, "
    return ""


def _phrase(name: str) -> str:
    article = "an" if name in _WITH_AN else "a"
    return f"{article} {name}{'' if ' ' in name else ' file'}, "
