"""A support set on disk: a folder with one folder of images for each class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kshot.client.errors import InputError


@dataclass(frozen=True)
class LabelledFiles:
    """Image files and the name of each one's class, in the order of class and file names."""

    files: tuple[Path, ...]
    labels: tuple[str, ...]


def read_class_folders(folder: Path) -> LabelledFiles:
    """List the images of each class folder in `folder`; names that start with a dot are ignored.

    Raises `InputError` when there is no folder, fewer than two classes, or a class with no image
    or with something that is not a file.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}; want one with a folder for each class")
    classes = [path for path in _visible(folder) if path.is_dir()]
    if len(classes) < 2:
        found = f"one class folder, {classes[0].name!r}" if classes else "no class folders"
        raise InputError(f"{folder}: {found}; want at least two folders, each with images")
    files: list[Path] = []
    labels: list[str] = []
    for class_folder in classes:
        images = _visible(class_folder)
        if not images:
            raise InputError(f"{class_folder}: no image in this class folder; want at least one")
        for image in images:
            if not image.is_file():
                raise InputError(f"{image}: not a file; a class folder holds images only")
        files += images
        labels += [class_folder.name] * len(images)
    return LabelledFiles(tuple(files), tuple(labels))


def read_files(files: tuple[Path, ...]) -> tuple[bytes, ...]:
    """Read files that have the beginning of a PNG, JPEG or WebP; raises `InputError` naming one."""
    contents = []
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from error
        if not _looks_like_an_image(content):
            raise InputError(f"{file}: not an image; want PNG, JPEG or WebP")
        contents.append(content)
    return tuple(contents)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _looks_like_an_image(content: bytes) -> bool:
    """Tell images from other files by their first bytes; the server decodes and judges."""
    return content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (
        content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    )
