"""How the classes of a data set are divided into training, validation and test classes."""

import csv
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kshot.trainer.datasets.dataset import names_digest
from kshot.trainer.errors import DataError, reading

Split = Mapping[str, Sequence[str]]

PARTS = ("train", "val", "test")
# Of the classes, as in mini-ImageNet and CIFAR-FS; the training classes are the rest.
VAL_FRACTION, TEST_FRACTION = 0.16, 0.20
# Of a split without validation: the share of test classes, and the fewest, where there are as many.
HELD_OUT_FRACTION, FEWEST_HELD_OUT = 0.25, 5
LEAST_CLASSES = 4


def split_digest(split: Split) -> str:
    """Return the SHA-256 over the classes of all parts: a line `part/class` for each.

    Training classes come first, then validation, then test; in each part in the given order.
    """
    return names_digest(f"{part}/{name}" for part in PARTS for name in split.get(part, ()))


def check_split_name(name: str, known: Iterable[str], dataset: str) -> None:
    """Raise `DataError` when a data set has no split of that name."""
    if name not in known:
        raise DataError(f"split of {dataset}: expected one of {', '.join(known)}, got {name!r}")


def check_image_count(classes: Mapping[str, Sequence[str]], expected: int, source: Path) -> None:
    """Raise `DataError` unless each class has the expected number of images."""
    for name, files in classes.items():
        if len(files) != expected:
            raise DataError(
                f"class {name} in {source}: expected {expected} images, got {len(files)}"
            )


def classes_of(split: Split, part: str, dataset: str) -> Sequence[str]:
    """Return the classes of a part; raise `DataError` when it has none."""
    if not split.get(part):
        parts = ", ".join(known for known in PARTS if split.get(known))
        raise DataError(
            f"part of {dataset}: expected one of {parts} (those with classes), got {part!r}"
        )
    return split[part]


def seeded_split(classes: Sequence[str], seed: int) -> Split:
    """Divide classes at random: 16 % for validation, 20 % for test, the others for training.

    Python's generator shuffles the sorted names; the counts are rounded, and every part gets at
    least one class. Raises `DataError` for fewer than three classes.
    """
    if len(classes) < len(PARTS):
        raise DataError(f"a seeded split needs at least 3 classes, got {len(classes)}")
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


def held_out_split(classes: Sequence[str], seed: int) -> Split:
    """Divide classes at random into test classes and training classes, none for validation.

    A quarter is held out, rounded, but at least five, and never more than half. Python's generator
    shuffles the sorted names. Raises `DataError` for fewer than four classes.
    """
    if len(classes) < LEAST_CLASSES:
        raise DataError(
            f"holding out classes: expected at least {LEAST_CLASSES} classes, two to train on and "
            f"two to test on, got {len(classes)}"
        )
    shuffled = sorted(classes)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 -- a split, not a secret
    wanted = max(FEWEST_HELD_OUT, round(HELD_OUT_FRACTION * len(shuffled)))
    count = min(wanted, len(shuffled) // 2)
    return {"train": sorted(shuffled[count:]), "test": sorted(shuffled[:count])}


def read_split_file(path: Path, classes: Sequence[str]) -> Split:
    """Read a CSV file with the columns `class` and `part`, one row for each of the classes.

    Raises `DataError` when the file cannot be read, repeats or omits a class, or names an unknown
    class or part.
    """
    part_of: dict[str, str] = {}
    for line, (name, part) in read_table(path, ("class", "part")):
        place = f"{path}, line {line}"
        if name in part_of:
            raise DataError(f"{place}: class {name!r} appears twice")
        if name not in classes:
            raise DataError(f"{place}: class {name!r} has no folder")
        if part not in PARTS:
            raise DataError(f"{place}: expected a part, one of {', '.join(PARTS)}, got {part!r}")
        part_of[name] = part
    for name in classes:
        if name not in part_of:
            raise DataError(f"{path}: class {name!r} is missing; each class needs a part")
    return {part: sorted(name for name in classes if part_of[name] == part) for part in PARTS}


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[int, tuple[str, ...]]]:
    """Read a CSV file with a header; return the line number and the fields of each row.

    Raises `DataError` when it cannot be read or has other columns.
    """
    with reading(path):
        return parse_table(path.read_bytes(), columns, str(path))


def parse_table(
    content: bytes, columns: Sequence[str], source: str
) -> list[tuple[int, tuple[str, ...]]]:
    """Read the content of a CSV file as `read_table` does."""
    rows = []
    try:
        reader = csv.reader(content.decode("utf-8-sig").splitlines())
        header = next(reader, [])
        if header != list(columns):
            raise DataError(
                f"{source}: expected the columns {','.join(columns)!r}, got {','.join(header)!r}"
            )
        for row in filter(None, reader):
            if len(row) != len(columns):
                place = f"{source}, line {reader.line_num}"
                raise DataError(f"{place}: expected {len(columns)} fields, got {len(row)}")
            rows.append((reader.line_num, tuple(row)))
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 text") from error
    except csv.Error as error:
        raise DataError(f"{source}, line {reader.line_num}: damaged: {error}") from error
    return rows
