"""A user's own data: a folder with a folder of images for each class."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from kshot.bundle import InputSpec
from kshot.trainer.datasets.cache import cached_dataset
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.decoding import DECODER_VERSION, ClassFiles, Progress, decode_classes
from kshot.trainer.datasets.image_files import ImageFiles, list_class_folders
from kshot.trainer.datasets.splits import (
    PARTS,
    Split,
    classes_of,
    read_split_file,
    seeded_split,
    split_digest,
)
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data

__all__ = ["list_parts", "read_class_files", "read_class_folders"]

SEED = re.compile("[0-9]{1,18}")


def read_class_folders(
    data: Data,
    data_folder: Path,
    part: str,
    *,
    input_spec: InputSpec,
    progress: Progress | None = None,
) -> ImageDataset:
    """Read a part of the folder of class folders that ``data.folder`` names in ``data_folder``.

    ``data.split`` is ``parts`` for ``<part>/<class>/<image>``, with the folders ``train``, ``test``
    and perhaps ``val``; for ``<class>/<image>`` it is ``file:NAME.csv``, a file in the folder with
    the columns ``class`` and ``part``, or ``seed:N``, which divides by `seeded_split`. Raises
    DataError for all that is missing, empty, unknown, named twice or cannot be decoded.
    """
    folder = _folder(data, data_folder)
    title = f"folder {data.folder} {data.split}"
    kind, _, argument = data.split.partition(":")
    classes: Mapping[str, Sequence[str]]
    if data.split == "parts":
        parts = list_parts(folder)
        _refuse_shared_classes(folder, parts)
        split: Split = {name: tuple(listed) for name, listed in parts.items()}
        classes = parts.get(part, {})
    elif kind == "file" and argument:
        classes = _list(folder)
        split = read_split_file(folder / _inside(argument, "split file"), tuple(classes))
    elif kind == "seed" and SEED.fullmatch(argument):
        classes = _list(folder)
        split = seeded_split(tuple(classes), int(argument))
    else:
        raise DataError(
            f"split of folder {data.folder} is {data.split!r}, wanted parts, file:NAME.csv or "
            "seed:N, N of at most 18 digits"
        )
    chosen = {name: classes[name] for name in classes_of(split, part, title)}
    files = ClassFiles(f"{title} {part}", folder, chosen, split_digest(split))
    return read_class_files(files, input_spec, progress)


def list_parts(folder: Path) -> dict[str, dict[str, list[str]]]:
    """List the image files of each class of each part, as ``<part>/<class>/<image>``.

    Raises DataError when there is no part, or no class in one.
    """
    parts = {part: list_class_folders(folder, part) for part in PARTS if (folder / part).is_dir()}
    if not parts:
        raise DataError(f"{folder} has none of the folders {', '.join(PARTS)}")
    for part, classes in parts.items():
        if not classes:
            raise DataError(f"{folder / part} has no class folders, wanted at least 1")
    return parts


def read_class_files(
    files: ClassFiles, input_spec: InputSpec, progress: Progress | None
) -> ImageDataset:
    """Decode files in folders, or take them from the cache where they are as they were."""
    names = tuple(name for listed in files.classes.values() for name in listed)
    found = ImageFiles(files.source, names)

    def decode() -> ImageDataset:
        with found.opened() as read:
            return decode_classes(files, read, input_spec, progress)

    parts = (files.name, str(DECODER_VERSION), str(files.source.resolve()), files.split_digest)
    return cached_dataset("|".join((*parts, found.fingerprint(), repr(input_spec))), decode)


def _folder(data: Data, data_folder: Path) -> Path:
    if data.folder is None:
        raise DataError("data set folder has no data.folder, wanted a folder in the data folder")
    folder = data_folder / _inside(data.folder, "data.folder")
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder, wanted one with a folder of images for each class")
    return folder


def _inside(name: str, what: str) -> str:
    """Refuse a path that leads out of its folder: bundles of other people name theirs too."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{what} is {name!r}, wanted a relative path without '..'")
    return name


def _list(folder: Path) -> dict[str, list[str]]:
    classes = list_class_folders(folder)
    if not classes:
        raise DataError(f"{folder} has no class folders, wanted at least 1")
    return classes


def _refuse_shared_classes(folder: Path, parts: Mapping[str, Mapping[str, object]]) -> None:
    part_of: dict[str, str] = {}
    for part, classes in parts.items():
        for name in classes:
            if name in part_of:
                raise DataError(
                    f"class {name!r} in {folder} is in {part_of[name]} and in {part}, wanted every "
                    "class in one part"
                )
            part_of[name] = part
