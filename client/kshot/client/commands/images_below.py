"""The image files in a folder and its subfolders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kshot.client.errors import InputError
from kshot.client.heic import HEIC, has_reader
from kshot.local.image_formats import READ, is_picture, read_format

# Told by their names: reading the beginning of each file of a large folder takes seconds.
_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
_OF_SYSTEMS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__macosx")
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart")


@dataclass(frozen=True)
class ImagesBelow:
    """Image files, sorted, and pictures of formats that are not read."""

    files: tuple[Path, ...]
    foreign: tuple[Path, ...]


def find_images(folder: Path) -> ImagesBelow:
    """Find the images in a folder and its subfolders; hidden names are passed over.

    Files that are being written under names such as `a.jpg.part` do not count. Raises
    `InputError` for what is no folder.
    """
    if not folder.is_dir():
        what = "not a directory" if folder.exists() else "no such directory"
        raise InputError(f"{folder}: {what}: expected a folder of images")
    files: list[Path] = []
    foreign: list[Path] = []
    also = (HEIC,) if has_reader() else ()
    for path in _visible(folder):
        kind = _kind(path)
        if kind in (*READ, *also):
            files.append(path)
        elif is_picture(kind):
            foreign.append(path)
    return ImagesBelow(tuple(sorted(files)), tuple(sorted(foreign)))


def _visible(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not _passed_over(name)]
        for name in names:
            if not _passed_over(name) and not name.lower().endswith(_UNFINISHED):
                yield Path(place, name)


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _refuse(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):  # a folder that is gone meanwhile has no images
        return
    raise InputError(f"cannot read {error.filename}: {error.strerror}") from error


def _kind(path: Path) -> str:
    """Return the format of a file, empty if unknown or if it is gone meanwhile."""
    if path.name.lower().endswith(_SUFFIXES):
        return READ[0]
    try:
        return read_format(path) if path.is_file() else ""
    except OSError:
        return ""
