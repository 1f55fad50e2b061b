"""Folders of class folders: a user's own data, and the files of data sets stored so."""

import os
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path, PurePosixPath

from kshot.local.class_folders import FolderError, list_classes
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
from kshot.trainer.errors import DataError

SEED = re.compile("[0-9]{1,18}")
_RANDOM = {"seed": seeded_split, "held-out": held_out_split}


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

    What is passed over and refused is said in `kshot.local.class_folders`, whose errors become
    `DataError`; so does a name that is not UTF-8: names go into digests and JSON.
    """
    return look_into(root, folder_name)[0]


def look_into(root: Path, folder_name: str = "") -> tuple[dict[str, list[str]], Sequence[str]]:
    """Return what `list_class_folders` does, and remarks for the user on the rest."""
    try:
        found = list_classes(root / folder_name)
    except FolderError as error:
        raise DataError(str(error)) from error
    for path in (path for images in found.classes.values() for path in images):
        try:
            path.name.encode()
        except UnicodeEncodeError as error:
            name = os.fsencode(path.name)
            raise DataError(f"{path.parent} holds {name!r}; expected a name in UTF-8") from error
    listed = {
        name: [path.relative_to(root).as_posix() for path in images]
        for name, images in found.classes.items()
    }
    return listed, found.remarks


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
