"""A user's folder of class folders: its classes, those held out, and what its pictures are."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kshot.bundle import THUMBNAIL, ImageError, are_drawings, prepare
from kshot.trainer.datasets.class_folders import list_class_folders, look_into
from kshot.trainer.datasets.splits import Split, held_out_split
from kshot.trainer.errors import DataError, reading

SPLIT = "held-out:0"
LOOKED_AT = 64  # pictures at most
REMEDY = "adapt a bundle that is served instead: kshot try"


@dataclass(frozen=True)
class OwnFolder:
    """The folder, the number of pictures of each class, and its training and test classes."""

    path: Path
    counts: dict[str, int]
    split: Split
    drawings: bool
    remarks: Sequence[str] = ()

    def fewest(self, part: str) -> int:
        """Count the pictures of the smallest class of a part, `train` or `test`."""
        return min(self.counts[name] for name in self.split[part])


def look_at(folder: Path) -> OwnFolder:
    """List the classes of a folder, hold some of them out, and look at some of the pictures.

    Raises `DataError` as `list_class_folders` does, for fewer than four classes, and for a class
    with one picture, which leaves none to ask about.
    """
    path = folder.resolve()
    classes, remarks = look_into(path)
    counts = {name: len(files) for name, files in classes.items()}
    try:
        split = held_out_split(tuple(classes), 0)
    except DataError as error:
        raise DataError(f"{folder}: {error}; {REMEDY} {folder}") from error
    for name, count in counts.items():
        if count < 2:
            raise DataError(
                f"class folder {path / name}: expected at least 2 pictures, one to learn and one "
                "to ask, got 1; add pictures or remove the class"
            )
    names = [name for listed in classes.values() for name in listed]
    return OwnFolder(path, counts, split, _drawn(path, names), remarks)


def files_on_both_sides(own: OwnFolder) -> Sequence[tuple[str, str]]:
    """Return pairs of equal files, one of a training class and one of a test class.

    Names are relative to the folder. Raises `DataError` for a file that cannot be read.
    """
    classes = list_class_folders(own.path)
    train, test = (
        [file for name in own.split[part] for file in classes[name]] for part in ("train", "test")
    )
    sizes = {file: _size(own.path / file) for file in (*train, *test)}
    shared = {sizes[file] for file in train} & {sizes[file] for file in test}
    seen = {_digest(own.path / file): file for file in train if sizes[file] in shared}
    digests = ((_digest(own.path / file), file) for file in test if sizes[file] in shared)
    return [(seen[digest], file) for digest, file in digests if digest in seen]


def _size(path: Path) -> int:
    with reading(path):
        return path.stat().st_size


def _digest(path: Path) -> bytes:
    with reading(path):
        return hashlib.sha256(path.read_bytes()).digest()


def _drawn(path: Path, names: Sequence[str]) -> bool:
    thumbnails = []
    for name in names[:: -(-len(names) // LOOKED_AT)]:
        try:
            with reading(path / name):
                thumbnails.append(prepare([(path / name).read_bytes()], THUMBNAIL))
        except ImageError as error:
            raise DataError(f"{path / name} {error.problems[0].reason}") from error
    return are_drawings(np.concatenate(thumbnails))
