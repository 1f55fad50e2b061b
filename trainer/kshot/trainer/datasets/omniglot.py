"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each; paper 255, ink 0."""

import random
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from kshot.bundle.manifest import Grayscale, InputSpec, Rescale, Resize
from kshot.trainer.datasets.cache import cached_dataset
from kshot.trainer.datasets.dataset import ImageDataset, mirrored, names_digest, with_rotations
from kshot.trainer.datasets.decoding import DECODER_VERSION, ClassFiles, Progress, decode_classes
from kshot.trainer.datasets.image_files import ImageFiles, find_image_files
from kshot.trainer.datasets.splits import Split, check_split_name, classes_of
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data

__all__ = [
    "FOLDERS",
    "OMNIGLOT_INPUT",
    "SPLIT_DIGESTS",
    "archive_names",
    "check_drawings",
    "read_omniglot",
    "reptile_split",
    "vinyals_split",
]

# The two halves as their author ships them: folder, number of characters.
FOLDERS = {"images_background": 964, "images_evaluation": 659}
DRAWING_COUNT = 20
TRAIN_CHARACTER_COUNT = 1200
VINYALS_VAL_ALPHABETS = (
    "Armenian",
    "Bengali",
    "Early_Aramaic",
    "Hebrew",
    "Mkhedruli_(Georgian)",
)
# SHA-256 of each split's published list of characters, one a line, training before validation
# before test: that a listing reproduces the split exactly is checked at every reading.
SPLIT_DIGESTS = {
    "reptile": "b468b8c85e5e8607e4cc7c577e5320581f5eaf615dc61702563d5ae748d841c0",
    "vinyals": "0751975a724d0d19ba6b160455d71ab181932bb687251d0db96f3d2d4b75e22b",
}
OMNIGLOT_INPUT = InputSpec(
    shape=(1, 28, 28),
    preprocessing=(Grayscale(), Resize(28, 28, "nearest"), Rescale(1 / 255)),
)


def read_omniglot(
    data: Data,
    data_folder: Path,
    part: str,
    *,
    input_spec: InputSpec = OMNIGLOT_INPUT,
    progress: Progress | None = None,
) -> ImageDataset:
    """Read a part of one of the two splits.

    ``reptile`` has 1,200 characters for training and 423 for test; its 1,200 validation classes are
    the training characters' mirror images, new signs but for those of characters with an axis of
    symmetry, and for the few that are another character's mirror image. ``vinyals`` has 1,028, 172
    and 423, and each validation and test character makes four classes by rotation, as in the papers
    that report on it (688 and 1,692 classes). ``data_folder`` holds
    ``omniglot_images_background.zip`` and ``omniglot_images_evaluation.zip`` (or ``images_….zip``,
    their names upstream), or the extracted folders. Raises DataError for an unknown split or part
    and for files that are missing, damaged or incomplete.
    """
    check_split_name(data.split, tuple(SPLIT_DIGESTS), "omniglot")
    sources = {folder: _find(data_folder, folder) for folder in FOLDERS}
    drawings: dict[str, list[str]] = {}
    for folder, files in sources.items():
        drawings |= check_drawings(files, folder)
    split = (reptile_split if data.split == "reptile" else vinyals_split)(list(drawings))
    digest = names_digest(name for characters in split.values() for name in characters)
    if digest != SPLIT_DIGESTS[data.split]:
        raise DataError(f"the characters in {data_folder} do not have the names of Omniglot's")
    turned_over = data.split == "reptile" and part == "val"
    source = "train" if turned_over else part
    chosen = {name: drawings[name] for name in classes_of(split, source, f"omniglot {data.split}")}
    listed = ClassFiles(f"omniglot {data.split} {source}", data_folder, chosen, digest)

    def decode() -> ImageDataset:
        with ExitStack() as stack:
            reads = {name: stack.enter_context(files.opened()) for name, files in sources.items()}
            return decode_classes(
                listed, lambda name: reads[name.split("/")[0]](name), input_spec, progress
            )

    fingerprints = (files.fingerprint() for files in sources.values())
    key = "|".join((listed.name, str(DECODER_VERSION), *fingerprints, repr(input_spec)))
    dataset = cached_dataset(key, decode)
    if turned_over:
        return mirrored(dataset, f"omniglot {data.split} {part}")
    return with_rotations(dataset) if data.split == "vinyals" and part != "train" else dataset


def reptile_split(characters: Sequence[str]) -> Split:
    """Divide characters into 1,200 for training and the rest, as the Reptile paper's code does.

    It sorts alphabets and characters of both folders together and shuffles them with Python's
    generator from seed 0. A character is ``<folder>/<alphabet>/<character>``.
    """
    shuffled = sorted(characters, key=_alphabet_and_character)
    random.Random(0).shuffle(shuffled)  # noqa: S311 -- a published split, not a secret
    return {"train": shuffled[:TRAIN_CHARACTER_COUNT], "test": shuffled[TRAIN_CHARACTER_COUNT:]}


def vinyals_split(characters: Sequence[str]) -> Split:
    """Divide characters as the lists do that go by Vinyals et al., "Matching Networks" (2016).

    Of all characters in order, ``images_background`` first, 1,200 are for training and the rest for
    test; of the 1,200 those of five whole alphabets are for validation.
    """
    ordered = sorted(characters)
    first, test = ordered[:TRAIN_CHARACTER_COUNT], ordered[TRAIN_CHARACTER_COUNT:]
    val = [name for name in first if name.split("/")[1] in VINYALS_VAL_ALPHABETS]
    train = sorted(set(first) - set(val), key=_alphabet_and_character)
    return {"train": train, "val": val, "test": test}


def archive_names(folder: str) -> tuple[str, str]:
    """Name the archives that may hold a folder: a renamed one, and upstream's."""
    return f"omniglot_{folder}.zip", f"{folder}.zip"


def check_drawings(files: ImageFiles, folder: str) -> dict[str, list[str]]:
    """Return the files of each character; raises DataError when any is missing or too many."""
    drawings: dict[str, list[str]] = {}
    for name in files.names:
        drawings.setdefault(name.rsplit("/", 1)[0], []).append(name)
    if len(drawings) != FOLDERS[folder]:
        raise DataError(
            f"{folder} in {files.source} has {len(drawings)} characters, wanted {FOLDERS[folder]}"
        )
    for character, listed in drawings.items():
        if len(listed) != DRAWING_COUNT:
            raise DataError(
                f"{character} in {files.source} has {len(listed)} drawings, wanted {DRAWING_COUNT}"
            )
    return drawings


def _find(data_folder: Path, folder: str) -> ImageFiles:
    if not data_folder.is_dir():
        raise DataError(f"data folder {data_folder} does not exist; {_WANTED}")
    try:
        return find_image_files(data_folder, folder, archive_names(folder))
    except DataError as error:
        raise DataError(f"{error}; {_WANTED}") from error


_WANTED = (
    "wanted a folder, named by --data or KSHOT_DATA, with Omniglot's images_background.zip and "
    "images_evaluation.zip (`kshot download omniglot` gets them, from "
    "github.com/brendenlake/omniglot) or the folders extracted from them"
)


def _alphabet_and_character(character: str) -> tuple[str, ...]:
    return tuple(character.split("/")[1:])
