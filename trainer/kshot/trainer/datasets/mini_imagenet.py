"""mini-ImageNet: 100 classes of 600 colour images, split 64/16/20 by Ravi and Larochelle (2017)."""

from collections.abc import Sequence
from pathlib import Path

from kshot.trainer.datasets.class_folders import list_parts, read_folder_files
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.reader import ClassFiles, PartRequest
from kshot.trainer.datasets.splits import (
    PARTS,
    check_image_count,
    check_split_name,
    classes_of,
    read_table,
    split_digest,
)
from kshot.trainer.datasets.unpacking import unpacked
from kshot.trainer.errors import DataError, reading

FOLDERS = ("mini-imagenet", "miniimagenet")
ARCHIVES = tuple(f"mini_imagenet_{part}.tar.xz" for part in PARTS)
IMAGE_FOLDER = "images"
LISTS = Path("splits", "miniimagenet")
IMAGE_COUNT = 600
SPLIT = "ravi"
# SHA-256 of the published split's classes (`kshot.trainer.datasets.splits.split_digest`).
SPLIT_DIGEST = "230196153357c7b54a34659fa241ac9fdebc3e4f57c7077fa722e865425e4cc1"
_REMEDY = (
    "provide <part>/<wnid>/<image> for train, val and test, a folder images with the lists "
    f"train.csv, val.csv and test.csv, or the archives {', '.join(ARCHIVES)}; the images are "
    "ImageNet's (image-net.org) and cannot be downloaded here, see docs/data.md"
)


def read_mini_imagenet(request: PartRequest) -> ImageDataset:
    """Read a part: 64, 16 or 20 classes, named by their WordNet ids, of 600 images each.

    The data folder holds the folder `mini-imagenet` (or `miniimagenet`), and that either
    `<part>/<wnid>/<image>` for all three parts, or one folder `images` beside the lists
    `ravi_<part>.csv` or `<part>.csv` (or these in `splits/miniimagenet`), whose columns are
    `filename` and `label`; or it holds `ARCHIVES`, each with `mini-imagenet/<part>/...`, which are
    unpacked into the cache. Images may have any size. Classes and counts of all parts are checked
    before anything is decoded. Raises `DataError` for an unknown split or part, for missing
    images, and for an image that cannot be decoded.
    """
    check_split_name(request.data.split, (SPLIT,), "mini-imagenet")
    folder = _find_folder(request.folder)
    if (folder / IMAGE_FOLDER).is_dir():
        parts = _listed_parts(folder, (folder, request.folder / LISTS))
    else:
        parts = list_parts(folder)
    for name, classes in parts.items():
        check_image_count(classes, IMAGE_COUNT, folder / name)
    split = {name: sorted(classes) for name, classes in parts.items()}
    if split_digest(split) != SPLIT_DIGEST:
        counts = ", ".join(f"{len(split.get(name, ()))} {name}" for name in PARTS)
        raise DataError(
            f"{folder}: expected the classes of mini-ImageNet's split {SPLIT} (64 train, 16 val "
            f"and 20 test), got others ({counts}); {_REMEDY}"
        )
    chosen = {n: parts[request.part][n] for n in classes_of(split, request.part, "mini-imagenet")}
    title = f"mini-imagenet {SPLIT} {request.part}"
    return read_folder_files(request, ClassFiles(title, folder, chosen, SPLIT_DIGEST))


def _find_folder(data_folder: Path) -> Path:
    """Return the folder of the images; archives are unpacked where there is none."""
    folders = [data_folder / name for name in FOLDERS]
    archives = [data_folder / name for name in ARCHIVES]
    if not any(map(Path.is_dir, folders)) and all(map(Path.is_file, archives)):
        folders = [unpacked(archives) / FOLDERS[0]]
    for folder in filter(Path.is_dir, folders):
        return folder
    raise DataError(f"{data_folder} has no folder {' or '.join(FOLDERS)}; {_REMEDY}")


def _listed_parts(folder: Path, list_folders: Sequence[Path]) -> dict[str, dict[str, list[str]]]:
    """Read the lists of all parts; each image is in the folder and in one list, once."""
    with reading(folder / IMAGE_FOLDER):
        there = {path.name for path in (folder / IMAGE_FOLDER).iterdir()}
    parts: dict[str, dict[str, list[str]]] = {}
    part_of: dict[str, str] = {}
    seen: set[str] = set()
    for part in PARTS:
        path = _list_file(list_folders, part)
        parts[part] = {}
        for line, (name, wnid) in read_table(path, ("filename", "label")):
            place = f"{path}, line {line}"
            if name in seen:
                raise DataError(f"{place}: image {name!r} appears twice")
            if part_of.setdefault(wnid, part) != part:
                raise DataError(f"{place}: class {wnid!r} is also in {part_of[wnid]}")
            if name not in there:
                raise DataError(f"{place}: {folder / IMAGE_FOLDER} has no image {name}")
            seen.add(name)
            parts[part].setdefault(wnid, []).append(f"{IMAGE_FOLDER}/{name}")
    return parts


def _list_file(folders: Sequence[Path], part: str) -> Path:
    names = (f"ravi_{part}.csv", f"{part}.csv")
    for path in (folder / name for folder in folders for name in names):
        if path.is_file():
            return path
    raise DataError(
        f"{folders[0]} has a folder {IMAGE_FOLDER}, but neither {' nor '.join(names)}; {_REMEDY}"
    )
