"""A support set on disk: a folder with one folder of images for each class."""

from __future__ import annotations

from collections.abc import Sequence
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

    Raises `InputError` if there is no folder, fewer than two classes, or a class without images or
    with anything that is not a file.
    """
    if not folder.is_dir():
        what = "not a directory" if folder.exists() else "no such directory"
        raise InputError(f"{folder}: {what}: expected one subdirectory per class")
    classes = [path for path in _visible(folder) if path.is_dir()]
    if len(classes) < 2:
        found = f"only {classes[0].name!r}" if classes else "none"
        raise InputError(f"{folder}: expected at least two subdirectories with images, got {found}")
    files: list[Path] = []
    labels: list[str] = []
    for class_folder in classes:
        images = _visible(class_folder)
        if not images:
            raise InputError(f"{class_folder}: expected at least one image, got none")
        for image in images:
            if not image.is_file():
                raise InputError(f"{image}: not a file; the directory of a class holds only images")
        files += images
        labels += [class_folder.name] * len(images)
    return LabelledFiles(tuple(files), tuple(labels))


def check_files(files: Sequence[Path]) -> None:
    """Raise `InputError` naming a file that is not PNG, JPEG or WebP, by its first bytes."""
    for file in files:
        try:
            with file.open("rb") as stream:
                start = stream.read(12)
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from error
        if not _looks_like_an_image(start):
            raise InputError(
                f"{file}: not an image: expected PNG, JPEG or WebP; convert it, or move it away"
            )


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _looks_like_an_image(start: bytes) -> bool:
    """Tell whether the first bytes are those of an image; the server decodes it."""
    return start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (
        start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    )
