"""The pictures of a trial: one's own folder, as `kshot adapt` takes it, in folds."""

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from kshot.bench.report import say
from kshot.bundle import ImageError, decode_image
from kshot.client.commands.folder import check_files, read_class_folders
from kshot.client.heic import readable

Rows = npt.NDArray[np.int64]
SEED = 0
MAX_FOLDS = 5
# Trivial classifiers need no more of a photograph.
SIDE = 256
_NAMED = 3  # files in an error


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures, their file names in the folder, and their classes 0..way-1.

    `folds` `(n,)` divides each class evenly; `found_count` were in the folder.
    """

    names: tuple[str, ...]
    data: tuple[bytes, ...]
    classes: Rows
    class_names: tuple[str, ...]
    folds: Rows
    found_count: int

    @property
    def fold_count(self) -> int:
        """Count the folds."""
        return int(self.folds.max()) + 1

    def split(self, fold: int, most: int | None = None) -> tuple[Rows, Rows]:
        """Return the rows to learn and the rows to ask: the others, and those of the fold.

        At most `most` of each class are learned, in a random order that is the same for all.
        """
        learned = [rows[self.folds[rows] != fold][:most] for rows in self._by_class]
        return np.concatenate(learned), np.flatnonzero(self.folds == fold)

    @property
    def least_examples(self) -> int:
        """Count the examples per class that every class has in every fold."""
        counts = [
            np.bincount(self.classes[self.split(fold)[0]]).min() for fold in range(self.fold_count)
        ]
        return int(min(counts))

    @property
    def _by_class(self) -> list[Rows]:
        generator = np.random.default_rng(SEED)
        ways = range(len(self.class_names))
        return [generator.permutation(np.flatnonzero(self.classes == label)) for label in ways]


def read_pictures(folder: Path, most: int) -> Pictures:
    """Read at most `most` pictures of a folder of class folders, equally many of each class.

    Raises `InputError` as `kshot adapt` does, and `ClickException` for a class with one picture and
    for files that cannot be decoded.
    """
    found = read_class_folders(folder)
    for remark in found.remarks:
        say(f"warning: {remark}")
    class_names, classes = np.unique(found.labels, return_inverse=True)
    counts = np.bincount(classes)
    if counts.min() < 2:
        name = class_names[int(counts.argmin())]
        raise click.ClickException(
            f"{folder / name}: expected at least 2 images of each class, one to learn and one to "
            "ask, got 1; add images or remove the class"
        )
    share = max(2, most // len(class_names))
    generator = np.random.default_rng(SEED)
    kept = np.concatenate(
        [
            generator.permutation(np.flatnonzero(classes == label))[:share]
            for label in range(len(class_names))
        ]
    )
    files = tuple(found.files[row] for row in kept)
    check_files(files)
    data = tuple(readable(path.read_bytes()) for path in files)
    names = tuple(path.relative_to(folder).as_posix() for path in files)
    _check_decodable(folder, names, data)
    classes = classes[kept].astype(np.int64)
    folds = np.concatenate(
        [
            np.arange(count) % min(MAX_FOLDS, int(np.bincount(classes).min()))
            for count in np.bincount(classes)
        ]
    )
    return Pictures(names, data, classes, tuple(map(str, class_names)), folds, len(found.files))


def _check_decodable(folder: Path, names: tuple[str, ...], data: tuple[bytes, ...]) -> None:
    damaged = []
    for name, content in zip(names, data, strict=True):
        try:
            decode_image(content, side=SIDE)
        except ImageError as error:
            damaged.append(f"{name} {error.problems[0].reason}")
    if damaged:
        more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
        raise click.ClickException(
            f"{folder}: expected images, got {'; '.join(damaged[:_NAMED])}{more}; repair or remove"
        )
