"""A support set on disk: a folder with one folder of images for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kshot.client.errors import InputError
from kshot.client.heic import HEIC, REMEDY, has_reader
from kshot.local.class_folders import FolderError, list_classes, refusal
from kshot.local.image_formats import READ, is_picture, phrase, read_format

_REMEDIES = {HEIC: REMEDY}


@dataclass(frozen=True)
class LabelledFiles:
    """Image files and the name of each one's class, in the order of class and file names.

    `remarks` are sentences that the user should read, as on files that were passed over.
    """

    files: tuple[Path, ...]
    labels: tuple[str, ...]
    remarks: tuple[str, ...]


def read_class_folders(folder: Path, least: int = 2) -> LabelledFiles:
    """List the images of each class folder in `folder`, as `kshot.local.class_folders` does.

    HEIC counts as an image where a reader is installed. Raises `InputError`, also for fewer than
    `least` classes, 1 or 2.
    """
    try:
        found = list_classes(folder, _also(), _REMEDIES)
    except FolderError as error:
        raise InputError(str(error)) from error
    if len(found.classes) < least:
        (name,) = found.classes
        raise InputError(
            f"{folder}: expected at least two subdirectories with images, got only {name!r}"
        )
    return LabelledFiles(
        tuple(path for images in found.classes.values() for path in images),
        tuple(name for name, images in found.classes.items() for _ in images),
        found.remarks,
    )


def check_files(files: Sequence[Path]) -> None:
    """Raise `InputError` naming a file that cannot be sent as an image, by its first bytes."""
    allowed = (*READ, *_also())
    for file in files:
        try:
            kind = read_format(file)
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{file}: expected a path without NUL characters") from error
        if kind in allowed:
            continue
        if is_picture(kind):
            raise InputError(f"{file}: {refusal(kind, _REMEDIES)}")
        empty = ", got an empty file" if file.stat().st_size == 0 else ""
        got = f", got {kind if kind == 'text' else phrase(kind)}" if kind else empty
        raise InputError(
            f"{file}: not an image: expected PNG, JPEG or WebP{got}; convert it, or move it away"
        )


def _also() -> tuple[str, ...]:
    return (HEIC,) if has_reader() else ()
