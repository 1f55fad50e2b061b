"""How the classes of a data set are divided into training, validation and test classes."""

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from kshot.trainer.datasets.dataset import names_digest
from kshot.trainer.errors import DataError

__all__ = [
    "PARTS",
    "Split",
    "check_split_name",
    "classes_of",
    "parse_table",
    "read_split_file",
    "read_table",
    "seeded_split",
    "split_digest",
]

Split = Mapping[str, Sequence[str]]

PARTS = ("train", "val", "test")
# Of the classes, as in mini-ImageNet and CIFAR-FS; the training classes are the rest.
VAL_FRACTION, TEST_FRACTION = 0.16, 0.20


def split_digest(split: Split) -> str:
    """Return the SHA-256 over the classes of all parts: a line ``part/class`` for each.

    Training classes come first, then validation, then test; in each part in the order given.
    """
    return names_digest(f"{part}/{name}" for part in PARTS for name in split.get(part, ()))


def check_split_name(name: str, known: Sequence[str], dataset: str) -> None:
    """Raise DataError when a data set has no split of that name."""
    if name not in known:
        raise DataError(f"split of {dataset} is {name!r}, wanted one of: {', '.join(known)}")


def classes_of(split: Split, part: str, dataset: str) -> Sequence[str]:
    """Return the classes of a part; raises DataError when there is no such part, or it is empty."""
    if not split.get(part):
        parts = [known for known in PARTS if split.get(known)]
        raise DataError(
            f"part of {dataset} is {part!r}, which has no classes, wanted one of: "
            f"{', '.join(parts)}"
        )
    return split[part]


def seeded_split(classes: Sequence[str], seed: int) -> Split:
    """Divide classes by chance: 16 % for validation, 20 % for test, the others for training.

    The sorted names are shuffled by Python's generator from the seed; the counts are rounded, and
    every part gets at least one class. Raises DataError for fewer than three classes.
    """
    if len(classes) < len(PARTS):
        raise DataError(f"{len(classes)} classes cannot be split in three, wanted at least 3")
    shuffled = sorted(classes)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 -- a split, not a secret
    val_count = max(1, round(VAL_FRACTION * len(shuffled)))
    test_count = max(1, round(TEST_FRACTION * len(shuffled)))
    train_count = len(shuffled) - val_count - test_count
    return {
        "train": sorted(shuffled[:train_count]),
        "val": sorted(shuffled[train_count : train_count + val_count]),
        "test": sorted(shuffled[train_count + val_count :]),
    }


def read_split_file(path: Path, classes: Sequence[str]) -> Split:
    """Read a CSV file with the columns ``class`` and ``part``, a row for each of the classes.

    Raises DataError when the file cannot be read, names a class twice, one that there is not, or a
    part that there is not, or leaves a class out.
    """
    known = set(classes)
    part_of: dict[str, str] = {}
    for line, (name, part) in read_table(path, ("class", "part")):
        if name in part_of:
            raise DataError(f"{path}, line {line}, names class {name!r} twice, wanted it once")
        if name not in known:
            raise DataError(
                f"{path}, line {line}, names class {name!r}, of which there is no folder"
            )
        if part not in PARTS:
            raise DataError(
                f"{path}, line {line}, has part {part!r}, wanted one of: {', '.join(PARTS)}"
            )
        part_of[name] = part
    for name in classes:
        if name not in part_of:
            raise DataError(f"{path} does not name class {name!r}, wanted a part for every class")
    return {part: sorted(name for name in classes if part_of[name] == part) for part in PARTS}


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[int, tuple[str, ...]]]:
    """Read a CSV file with a header: the line number and the fields of each row.

    Raises DataError when it cannot be read, or its columns are others.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8") from error
    return parse_table(text, columns, str(path))


def parse_table(
    text: str, columns: Sequence[str], source: str
) -> list[tuple[int, tuple[str, ...]]]:
    """Take apart the text of a CSV file as `read_table` does."""
    reader = csv.reader(text.splitlines())
    rows = []
    try:
        header = next(reader, [])
        if header != list(columns):
            raise DataError(
                f"{source} has the columns {','.join(header)!r}, wanted {','.join(columns)!r}"
            )
        for row in reader:
            if not row:
                continue
            if len(row) != len(columns):
                raise DataError(
                    f"{source}, line {reader.line_num}, has {len(row)} fields, "
                    f"wanted {len(columns)}"
                )
            rows.append((reader.line_num, tuple(row)))
    except csv.Error as error:
        raise DataError(f"{source}, line {reader.line_num}, is damaged: {error}") from error
    return rows
