"""The formats of files by their first bytes."""

from __future__ import annotations

from pathlib import Path

READ = ("PNG", "JPEG", "WebP")
"""The formats that kshot decodes."""
HEAD_BYTES = 512
"""How much of a file tells its format."""

_RAW = "camera RAW"
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG-2000"),
    (b"\xff\x4f\xff\x51", "JPEG-2000"),
    (b"\0\0\0\x0cJXL ", "JPEG-XL"),
    (b"\xff\x0a", "JPEG-XL"),
    (b"v/1\x01", "OpenEXR"),
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"IIU\0", _RAW),
    (b"IIRO", _RAW),
    (b"IIRS", _RAW),
    (b"MMOR", _RAW),
    (b"FOVb", _RAW),
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
    b"crx ": _RAW,
}
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
# These begin as TIFF files do, or as none that is known; the name tells.
_RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".dng", ".iiq", ".nef", ".nrw"),
    *(".orf", ".pef", ".raf", ".raw", ".rw2", ".sr2", ".srw"),
)
_SUFFIXES = {
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".heic": "HEIC",
    ".heif": "HEIC",
    ".jp2": "JPEG-2000",
    ".jxl": "JPEG-XL",
    ".pgm": "Netpbm",
    ".ppm": "Netpbm",
    ".psd": "PSD",
    ".svg": "SVG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    **dict.fromkeys(_RAW_SUFFIXES, _RAW),
}
_MARKUP = ((b"<svg", "SVG"), (b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<?xml", "XML"))
_NETPBM = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7")
_NO_PICTURES = (
    "ZIP",
    "gzip",
    "NumPy array",
    "PNG that was changed as text",
    "video",
    "HTML",
    "XML",
    "text",
    "",
)
_WITH_AN = ("AVIF", "HTML", "ICO", "OpenEXR", "SVG", "XML")


def format_of(head: bytes) -> str:
    """Return the name of a file's format by its first bytes, empty if it is unknown."""
    if head[:4] == b"II*\0" and head[8:10] == b"CR":
        return _RAW
    for start, found in _STARTS:
        if head.startswith(start):
            return found
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if head[4:8] == b"ftyp":
        if head[8:12] in (b"mif1", b"msf1") and b"avif" in head[16:64]:
            return "AVIF"
        return _BRANDS.get(head[8:12], "video")
    if head[:2] in _NETPBM and head[2:3].isspace():
        return "Netpbm"
    return _text(head)


def is_picture(kind: str) -> bool:
    """Tell whether a format holds a picture, which must not go missing without a word."""
    return kind not in _NO_PICTURES


def read_format(path: Path) -> str:
    """Return the name of a file's format, empty if unknown; raises `OSError`.

    The content decides; a damaged picture of another format is known by its name.
    """
    with path.open("rb") as file:
        kind = format_of(file.read(HEAD_BYTES))
    named = _SUFFIXES.get(path.suffix.lower(), "")
    return named if named and (not is_picture(kind) or (named, kind) == (_RAW, "TIFF")) else kind


def other_format(data: bytes) -> str:
    """Return words like `a GIF file, ` for a file that is not read, empty if it is unknown."""
    kind = format_of(data[:HEAD_BYTES])
    if kind == "text":
        return "text, "
    return f"{phrase(kind)}, " if kind else ""


def phrase(kind: str) -> str:
    """Return words like `a GIF file` for a format."""
    article = "an" if kind in _WITH_AN else "a"
    return f"{article} {kind}{'' if ' that ' in kind or ' array' in kind else ' file'}"


def _text(head: bytes) -> str:
    markup = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if markup.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in markup:
        return "SVG"
    for start, found in _MARKUP:
        if markup.startswith(start):
            return found
    return "text" if head and all(byte >= 32 or byte in b"\t\r\n" for byte in head[:64]) else ""
