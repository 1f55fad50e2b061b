"""mini-ImageNet: 100 classes of 600 colour images, split 64/16/20 by Ravi and Larochelle (2017)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kshot.bundle import InputSpec
from kshot.trainer.datasets.class_folders import list_parts, read_class_files
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.decoding import ClassFiles, Progress
from kshot.trainer.datasets.splits import (
    PARTS,
    check_split_name,
    classes_of,
    read_table,
    split_digest,
)
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data

__all__ = ["read_mini_imagenet"]

FOLDERS = ("mini-imagenet", "miniimagenet")
IMAGE_FOLDER = "images"
LISTS = Path("splits", "miniimagenet")
IMAGE_COUNT = 600
SPLIT = "ravi"
# SHA-256 of the published split's classes (`kshot.trainer.datasets.splits.split_digest`).
SPLIT_DIGEST = "230196153357c7b54a34659fa241ac9fdebc3e4f57c7077fa722e865425e4cc1"


def read_mini_imagenet(
    data: Data,
    data_folder: Path,
    part: str,
    *,
    input_spec: InputSpec,
    progress: Progress | None = None,
) -> ImageDataset:
    """Read a part: 64, 16 or 20 classes, named by their WordNet ids, of 600 images each.

    ``data_folder`` holds the folder ``mini-imagenet`` (or ``miniimagenet``), and that either
    ``<part>/<wnid>/<image>`` for all three parts, or one folder ``images`` beside the lists
    ``ravi_<part>.csv`` or ``<part>.csv`` (or these in ``splits/miniimagenet``), whose columns are
    ``filename`` and ``label``. Images may have any size. Classes and counts of all parts are
    checked before anything is decoded; raises DataError for what is unknown, missing, too few or
    cannot be decoded.
    """
    check_split_name(data.split, (SPLIT,), "mini-imagenet")
    folder = _folder(data_folder)
    listed = (folder / IMAGE_FOLDER).is_dir()
    parts = _listed_parts(folder, data_folder / LISTS) if listed else list_parts(folder)
    split = {name: sorted(classes) for name, classes in parts.items()}
    for name, classes in parts.items():
        for wnid, files in classes.items():
            if len(files) != IMAGE_COUNT:
                raise DataError(
                    f"class {wnid} of {name} in {folder} has {len(files)} images, "
                    f"wanted {IMAGE_COUNT}"
                )
    if split_digest(split) != SPLIT_DIGEST:
        counts = ", ".join(f"{len(split.get(name, ()))} {name}" for name in PARTS)
        raise DataError(
            f"{folder} has not the classes of mini-ImageNet's split {SPLIT} ({counts} classes), "
            f"wanted its 64 train, 16 val and 20 test; {_WANTED}"
        )
    chosen = {name: parts[part][name] for name in classes_of(split, part, "mini-imagenet")}
    class_files = ClassFiles(f"mini-imagenet {SPLIT} {part}", folder, chosen, SPLIT_DIGEST)
    return read_class_files(class_files, input_spec, progress)


def _folder(data_folder: Path) -> Path:
    for name in FOLDERS:
        if (data_folder / name).is_dir():
            return data_folder / name
    raise DataError(f"{data_folder} has no folder {' or '.join(FOLDERS)}; {_WANTED}")


_WANTED = (
    "wanted <part>/<wnid>/<image> for train, val and test, or a folder images with the lists "
    "train.csv, val.csv and test.csv; the images are ImageNet's (image-net.org) and not for "
    "download here, see docs/data.md"
)


def _listed_parts(folder: Path, lists: Path) -> Mapping[str, Mapping[str, list[str]]]:
    """Read the lists of all parts; each image is in one of them, once, and in the folder."""
    try:
        there = {path.name for path in (folder / IMAGE_FOLDER).iterdir()}
    except OSError as error:
        raise DataError(f"cannot read {folder / IMAGE_FOLDER}: {error.strerror}") from error
    parts: dict[str, dict[str, list[str]]] = {}
    part_of: dict[str, str] = {}
    seen: set[str] = set()
    for part in PARTS:
        path = _list_file((folder, lists), part)
        classes = parts.setdefault(part, {})
        for line, (name, wnid) in read_table(path, ("filename", "label")):
            if name in seen:
                raise DataError(f"{path}, line {line}, names image {name!r} twice, wanted it once")
            if part_of.setdefault(wnid, part) != part:
                raise DataError(
                    f"{path}, line {line}, names class {wnid!r}, which is in {part_of[wnid]} too"
                )
            if name not in there:
                raise DataError(f"{folder / IMAGE_FOLDER} has no {name}, which {path.name} names")
            seen.add(name)
            classes.setdefault(wnid, []).append(f"{IMAGE_FOLDER}/{name}")
    return parts


def _list_file(folders: Sequence[Path], part: str) -> Path:
    names = (f"ravi_{part}.csv", f"{part}.csv")
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"{folders[0]} has a folder {IMAGE_FOLDER}, but neither {' nor '.join(names)}; {_WANTED}"
    )
