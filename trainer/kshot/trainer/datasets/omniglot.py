"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each; paper 255, ink 0."""

import random
from collections.abc import Sequence

from kshot.trainer.datasets.dataset import ImageDataset, mirrored, names_digest, with_rotations
from kshot.trainer.datasets.image_files import ImageFiles, find_image_files
from kshot.trainer.datasets.reader import ClassFiles, PartRequest, read_class_files
from kshot.trainer.datasets.splits import Split, check_image_count, check_split_name, classes_of
from kshot.trainer.errors import DataError

# The two halves as their author ships them: folder, number of characters.
FOLDERS = {"images_background": 964, "images_evaluation": 659}
DRAWING_COUNT = 20
TRAIN_CHARACTER_COUNT = 1200
VINYALS_VAL_ALPHABETS = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
# SHA-256 of the published list of characters of each split, one a line, training before validation
# before test. Each reading checks that it reproduces the split exactly.
SPLIT_DIGESTS = {
    "reptile": "b468b8c85e5e8607e4cc7c577e5320581f5eaf615dc61702563d5ae748d841c0",
    "vinyals": "0751975a724d0d19ba6b160455d71ab181932bb687251d0db96f3d2d4b75e22b",
}
_REMEDY = (
    "name a folder, by --data or KSHOT_DATA, with Omniglot's images_background.zip and "
    "images_evaluation.zip (`kshot download omniglot` gets them from "
    "github.com/brendenlake/omniglot) or the folders extracted from them"
)


def read_omniglot(request: PartRequest) -> ImageDataset:
    """Read a part of one of the two splits.

    `reptile` has 1,200 characters for training and 423 for test. Its 1,200 validation classes are
    the mirror images of the training characters: new signs, except where a character has an axis of
    symmetry or is the mirror image of another. `vinyals` has 1,028, 172 and 423 characters; each
    validation and test character makes four classes by rotation, as in the papers that report on it
    (688 and 1,692 classes). The data folder holds `omniglot_images_background.zip` and
    `omniglot_images_evaluation.zip` (or `images_….zip`, their names upstream), or the extracted
    folders. Raises `DataError` for an unknown split or part and for files that are missing, damaged
    or incomplete.
    """
    folder, split_name, part = request.folder, request.data.split, request.part
    check_split_name(split_name, SPLIT_DIGESTS, "omniglot")
    try:
        sources = [find_image_files(folder, name, archive_names(name)) for name in FOLDERS]
    except DataError as error:
        raise DataError(f"{error}; {_REMEDY}") from error
    drawings: dict[str, list[str]] = {}
    for name, found in zip(FOLDERS, sources, strict=True):
        drawings |= check_drawings(found, name)
    split = (reptile_split if split_name == "reptile" else vinyals_split)(list(drawings))
    digest = names_digest(name for characters in split.values() for name in characters)
    if digest != SPLIT_DIGESTS[split_name]:
        raise DataError(f"{folder}: the characters do not have the names of Omniglot's")
    mirror = split_name == "reptile" and part == "val"
    listed_part = "train" if mirror else part
    chosen = classes_of(split, listed_part, f"omniglot {split_name}")
    title = f"omniglot {split_name} {listed_part}"
    files = ClassFiles(title, folder, {name: drawings[name] for name in chosen}, digest)
    dataset = read_class_files(request, files, sources)
    if mirror:
        return mirrored(dataset, f"omniglot {split_name} {part}")
    return with_rotations(dataset) if split_name == "vinyals" and part != "train" else dataset


def reptile_split(characters: Sequence[str]) -> Split:
    """Divide characters into 1,200 for training and the rest, as the Reptile paper's code does.

    It sorts alphabets and characters of both folders together and shuffles them with Python's
    generator from seed 0. A character is `<folder>/<alphabet>/<character>`.
    """
    shuffled = sorted(characters, key=_alphabet_and_character)
    random.Random(0).shuffle(shuffled)  # noqa: S311 -- a published split, not a secret
    return {"train": shuffled[:TRAIN_CHARACTER_COUNT], "test": shuffled[TRAIN_CHARACTER_COUNT:]}


def vinyals_split(characters: Sequence[str]) -> Split:
    """Divide characters as the lists named after Vinyals et al., "Matching Networks" (2016), do.

    Of all characters in order, `images_background` first, 1,200 are for training and the rest for
    test; of the 1,200, those of five whole alphabets are for validation.
    """
    ordered = sorted(characters)
    first, test = ordered[:TRAIN_CHARACTER_COUNT], ordered[TRAIN_CHARACTER_COUNT:]
    val = [name for name in first if name.split("/")[1] in VINYALS_VAL_ALPHABETS]
    train = sorted(set(first) - set(val), key=_alphabet_and_character)
    return {"train": train, "val": val, "test": test}


def archive_names(folder: str) -> tuple[str, str]:
    """Return the names of the archives that may hold a folder: a renamed one, and upstream's."""
    return f"omniglot_{folder}.zip", f"{folder}.zip"


def check_drawings(files: ImageFiles, folder: str) -> dict[str, list[str]]:
    """Return the files of each character; raise `DataError` unless all are there, and no other."""
    drawings: dict[str, list[str]] = {}
    for name in files.names:
        drawings.setdefault(name.rsplit("/", 1)[0], []).append(name)
    expected = FOLDERS[folder]
    if len(drawings) != expected:
        place = f"{folder} in {files.source}"
        raise DataError(f"{place}: expected {expected} characters, got {len(drawings)}")
    check_image_count(drawings, DRAWING_COUNT, files.source)
    return drawings


def _alphabet_and_character(character: str) -> tuple[str, ...]:
    return tuple(character.split("/")[1:])
