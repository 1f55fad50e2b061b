"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each; paper 255, ink 0."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from kshot.bundle.errors import ImageError
from kshot.bundle.manifest import Grayscale, InputSpec, Rescale, Resize
from kshot.bundle.preprocessing import pixels
from kshot.trainer.cache import cached_images
from kshot.trainer.dataset import ImageDataset, make_dataset, names_digest
from kshot.trainer.errors import DataError
from kshot.trainer.image_files import ImageFiles, Progress, find_image_files
from kshot.trainer.recipe import Data

__all__ = ["OMNIGLOT_INPUT", "SPLIT_DIGESTS", "read_omniglot", "reptile_split"]

# The two halves as their author ships them: folder, number of characters.
FOLDERS = {"images_background": 964, "images_evaluation": 659}
DRAWING_COUNT = 20
TRAIN_CHARACTER_COUNT = 1200
# SHA-256 of the split's characters, one a line, training before test: that a listing reproduces the
# split of the Reptile paper exactly is checked at every reading.
SPLIT_DIGESTS = {"reptile": "b468b8c85e5e8607e4cc7c577e5320581f5eaf615dc61702563d5ae748d841c0"}
OMNIGLOT_INPUT = InputSpec(
    shape=(1, 28, 28),
    preprocessing=(Grayscale(), Resize(28, 28, "nearest"), Rescale(1 / 255)),
)
# Goes into the key of the cache: raise it when the same files decode to other arrays.
READER_VERSION = 1
DECODED_AT_ONCE = 1000


def read_omniglot(
    data: Data,
    data_folder: Path,
    part: str,
    *,
    input_spec: InputSpec = OMNIGLOT_INPUT,
    progress: Progress | None = None,
) -> ImageDataset:
    """Read the ``train`` or ``test`` characters of a split, 1,200 and 423, none rotated.

    ``data_folder`` holds ``omniglot_images_background.zip`` and
    ``omniglot_images_evaluation.zip`` (or ``images_….zip``, their names upstream), or the extracted
    folders. Raises DataError for an unknown split and for files that are
    missing, damaged or incomplete.
    """
    if data.split not in SPLIT_DIGESTS:
        raise DataError(f"split is {data.split!r}, wanted one of: {', '.join(SPLIT_DIGESTS)}")
    if part not in ("train", "test"):
        raise DataError(f"part of the split is {part!r}, wanted train or test")
    sources = [_find(data_folder, folder) for folder in FOLDERS]
    drawings = _drawings_by_character(sources)
    characters = sorted(drawings, key=_alphabet_and_character)
    train, test = reptile_split(characters)
    chosen = train if part == "train" else test
    split_digest = names_digest(train + test)
    if split_digest != SPLIT_DIGESTS[data.split]:
        raise DataError(f"the characters in {data_folder} do not have the names of Omniglot's")
    key = "|".join(
        (f"omniglot {READER_VERSION}", *(files.digest() for files in sources), repr(input_spec))
    )
    images = cached_images(key, lambda: _decode(sources, input_spec, progress))
    row_of = {name: row for row, name in enumerate(_names(sources))}
    rows = [row_of[name] for character in chosen for name in drawings[character]]
    return make_dataset(
        f"omniglot {data.split} {part}",
        images[torch.tensor(rows)],
        torch.arange(len(chosen) + 1) * DRAWING_COUNT,
        tuple(chosen),
        split_digest,
    )


def reptile_split(characters: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide characters into 1,200 for training and the rest, as the Reptile paper's code does.

    It sorts alphabets and characters of both folders together and shuffles them with Python's
    generator from seed 0. A character is ``<folder>/<alphabet>/<character>``.
    """
    shuffled = sorted(characters, key=_alphabet_and_character)
    random.Random(0).shuffle(shuffled)  # noqa: S311 -- a published split, not a secret
    return shuffled[:TRAIN_CHARACTER_COUNT], shuffled[TRAIN_CHARACTER_COUNT:]


def _find(data_folder: Path, folder: str) -> ImageFiles:
    archives = (f"omniglot_{folder}.zip", f"{folder}.zip")
    if not data_folder.is_dir():
        raise DataError(f"data folder {data_folder} does not exist; {_WANTED}")
    try:
        files = find_image_files(data_folder, folder, archives)
    except DataError as error:
        raise DataError(f"{error}; {_WANTED}") from error
    return files


_WANTED = (
    "wanted a folder, named by --data or KSHOT_DATA, with Omniglot's images_background.zip and "
    "images_evaluation.zip (from github.com/brendenlake/omniglot, folder python) or the folders "
    "images_background and images_evaluation extracted from them"
)


def _drawings_by_character(sources: Sequence[ImageFiles]) -> dict[str, list[str]]:
    drawings: dict[str, list[str]] = {}
    for (folder, wanted), files in zip(FOLDERS.items(), sources, strict=True):
        counts = Counter(name.rsplit("/", 1)[0] for name in files.names)
        if len(counts) != wanted:
            raise DataError(
                f"{folder} in {files.source} has {len(counts)} characters, wanted {wanted}"
            )
        for character, count in counts.items():
            if count != DRAWING_COUNT:
                raise DataError(
                    f"{character} in {files.source} has {count} drawings, wanted {DRAWING_COUNT}"
                )
        for name in files.names:
            drawings.setdefault(name.rsplit("/", 1)[0], []).append(name)
    return drawings


def _decode(
    sources: Sequence[ImageFiles], input_spec: InputSpec, progress: Progress | None
) -> torch.Tensor:
    total = len(_names(sources))
    arrays = []
    done = 0
    for files in sources:
        named = zip(files.names, files.read(files.names), strict=True)
        while batch := list(islice(named, DECODED_AT_ONCE)):
            try:
                arrays.append(pixels([data for _, data in batch], input_spec))
            except ImageError as error:
                problem = error.problems[0]
                name = batch[problem.index or 0][0]
                raise DataError(
                    f"{name} in {files.source} cannot be decoded: {problem.reason}"
                ) from error
            done += len(batch)
            if progress is not None:
                progress(done, total)
    return torch.from_numpy(np.concatenate(arrays))


def _names(sources: Sequence[ImageFiles]) -> list[str]:
    return [name for files in sources for name in files.names]


def _alphabet_and_character(character: str) -> tuple[str, ...]:
    return tuple(character.split("/")[1:])
