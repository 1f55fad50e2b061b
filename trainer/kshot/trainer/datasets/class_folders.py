"""Folders of class folders: a user's own data, and the files of data sets stored so."""

import os
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path, PurePosixPath

from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.image_files import ImageFiles
from kshot.trainer.datasets.reader import ClassFiles, PartRequest, read_class_files
from kshot.trainer.datasets.splits import (
    PARTS,
    Split,
    classes_of,
    held_out_split,
    read_split_file,
    seeded_split,
    split_digest,
)
from kshot.trainer.errors import DataError, reading

SEED = re.compile("[0-9]{1,18}")
_RANDOM = {"seed": seeded_split, "held-out": held_out_split}
# What `kshot.bundle` decodes, and pictures that must not go missing silently.
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jp2", ".pgm", ".ppm", ".tif", ".tiff")


def read_class_folders(request: PartRequest) -> ImageDataset:
    """Read a part of the folder of class folders that `data.folder` names in the data folder.

    `data.split` is `parts` for `<part>/<class>/<image>`, with the folders `train`, `test` and
    perhaps `val`; for `<class>/<image>` it is `file:NAME.csv`, a file in the folder with the
    columns `class` and `part`, `seed:N`, which divides by `seeded_split`, or `held-out:N`, which
    divides by `held_out_split`. Raises `DataError` for a split, folder, class or image that is
    missing, empty, unknown, repeated or damaged.
    """
    data = request.data
    if data.folder is None:
        raise DataError("data.folder: data set folder needs a folder in the data folder")
    folder = request.folder / _inside(data.folder, "data.folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: not a directory; expected one subdirectory per class")
    kind, _, argument = data.split.partition(":")
    split: Split
    classes: Mapping[str, Sequence[str]]
    if data.split == "parts":
        parts = list_parts(folder)
        _refuse_shared_classes(folder, parts)
        split = {name: tuple(listed) for name, listed in parts.items()}
        classes = parts.get(request.part, {})
    elif kind == "file" and argument:
        classes = list_class_folders(folder)
        split = read_split_file(folder / _inside(argument, "split file"), tuple(classes))
    elif kind in _RANDOM and SEED.fullmatch(argument):
        classes = list_class_folders(folder)
        split = _RANDOM[kind](tuple(classes), int(argument))
    else:
        raise DataError(
            f"split of folder {data.folder}: expected parts, file:NAME.csv, seed:N or "
            f"held-out:N (at most 18 digits), got {data.split!r}"
        )
    title = f"folder {data.folder} {data.split}"
    chosen = {name: classes[name] for name in classes_of(split, request.part, title)}
    files = ClassFiles(f"{title} {request.part}", folder, chosen, split_digest(split))
    return read_folder_files(request, files)


def read_folder_files(request: PartRequest, files: ClassFiles) -> ImageDataset:
    """Return the decoded files of classes in a folder, from the cache where they are unchanged."""
    names = tuple(name for listed in files.classes.values() for name in listed)
    identity = (str(files.source.resolve()), files.split_digest)
    return read_class_files(request, files, [ImageFiles(files.source, names)], identity)


def list_parts(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Return the image files of each class of each part, as `<part>/<class>/<image>`.

    Raises `DataError` as `list_class_folders` does, and when there is no part.
    """
    parts = {part: list_class_folders(folder, part) for part in PARTS if (folder / part).is_dir()}
    if not parts:
        raise DataError(f"{folder} has none of the folders {', '.join(PARTS)}")
    return parts


def list_class_folders(root: Path, folder_name: str = "") -> dict[str, list[str]]:
    """Return the image files of each folder in `root/folder_name`, relative to `root`, sorted.

    Hidden files and files without an image's suffix are skipped. Raises `DataError` when there is
    no class folder, for a folder that cannot be read or has no image, for an image of an
    unsupported format, for a dangling link, which may have been a class, and for a name that is
    not UTF-8.
    """
    classes = {}
    for folder in _visible(root / folder_name):
        if folder.is_symlink() and not folder.exists():
            raise DataError(f"{folder}: dangling link; expected a class folder")
        if folder.is_dir():
            listed = [path.relative_to(root).as_posix() for path in _images(folder)]
            if not listed:
                raise DataError(f"class folder {folder} has no images; expected at least 1")
            classes[folder.name] = listed
    if not classes:
        raise DataError(f"{root / folder_name} has no class folders; expected at least 1")
    return classes


def _images(folder: Path) -> list[Path]:
    images = []
    for path in _visible(folder):
        suffix = path.suffix.lower()
        if suffix in _OTHER_SUFFIXES:
            raise DataError(f"{path}: expected PNG, JPEG or WebP images, got a {suffix} file")
        if suffix in _SUFFIXES:
            images.append(path)
    return images


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted, without hidden names; names go into digests and JSON."""
    with reading(folder):
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in found:
        try:
            path.name.encode()
        except UnicodeEncodeError as error:
            name = os.fsencode(path.name)
            raise DataError(f"{folder} holds {name!r}; expected a name in UTF-8") from error
    return found


def _inside(name: str, what: str) -> str:
    """Refuse a path that leads out of its folder: other people's bundles name theirs too."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{what}: expected a relative path without '..', got {name!r}")
    return name


def _refuse_shared_classes(folder: Path, parts: Mapping[str, Mapping[str, object]]) -> None:
    for (part, classes), (other, others) in combinations(parts.items(), 2):
        for name in sorted(classes.keys() & others.keys()):
            raise DataError(
                f"class {name!r} in {folder} is in {part} and in {other}; each class belongs to "
                "one part"
            )
