"""CIFAR-FS and FC100: the 100 classes of CIFAR-100, 32x32 in colour, in two few-shot splits."""

import lzma
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kshot.trainer.datasets.cache import cached_dataset
from kshot.trainer.datasets.class_folders import list_class_folders, list_parts, read_folder_files
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.image_files import file_digest
from kshot.trainer.datasets.reader import ClassFiles, PartRequest, cache_key, decode_classes
from kshot.trainer.datasets.splits import (
    PARTS,
    check_split_name,
    classes_of,
    parse_table,
    read_table,
    split_digest,
)
from kshot.trainer.errors import DataError

FOLDER = "cifar_fs"
UPSTREAM_FOLDER = Path("cifar100", "data")
UPSTREAM_IMAGE_COUNT = 600
# The archives that hold the classes which CIFAR-FS has for training, validation and test.
ARCHIVES = {
    "train": "cifar_fs_train.tar.xz",
    "val": "cifar_fs_valtest.tar.xz",
    "test": "cifar_fs_valtest.tar.xz",
}
TABLE = "classes.csv"
COLUMNS = ("class", "superclass", "cifar_fs_split", "fc100_split", "images")
_REMEDY = (
    "provide the folder cifar100 with data/<class>/<image>, from the archive of CIFAR-FS's authors "
    "(github.com/bertinetto/r2d2), or the archives that docs/data.md describes"
)


@dataclass(frozen=True)
class CifarSplit:
    """A published split; classes in neither tuple are for training.

    `digest` is that of `kshot.trainer.datasets.splits.split_digest`.
    """

    name: str
    val: tuple[str, ...]
    test: tuple[str, ...]
    digest: str


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Bertinetto et al., "Meta-learning with differentiable closed-form solvers" (ICLR 2019); Oreshkin
# et al., "TADAM" (NeurIPS 2018), which divides superclasses.
CIFAR_SPLITS: Mapping[str, CifarSplit] = {
    "cifar-fs": CifarSplit(
        name="bertinetto",
        val=_names(
            "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree "
            "motorcycle otter sea shark television tractor"
        ),
        test=_names(
            "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose "
            "snail sweet_pepper table telephone wardrobe whale woman worm"
        ),
        digest="e4e845fa943de1e0eb914cf8dc0d34baeb3710df7d03e5c8f0d40490238abb86",
    ),
    "fc100": CifarSplit(
        name="oreshkin",
        val=_names(
            "bear camel cattle chimpanzee crab elephant hamster kangaroo leopard lion lobster "
            "mouse rabbit shrew snail spider squirrel tiger wolf worm"
        ),
        test=_names(
            "baby beaver bee beetle boy butterfly caterpillar cockroach dolphin fox girl man "
            "otter porcupine possum raccoon seal skunk whale woman"
        ),
        digest="d857734eb3a351c886781a8480849cb53c6a659d8f4b9e9a601892ced3a15d7e",
    ),
}


def read_cifar(request: PartRequest) -> ImageDataset:
    """Read a part of CIFAR-FS (64, 16 and 20 classes) or of FC100 (60, 20 and 20).

    The data folder holds the folder `cifar100` as the authors' archive has it, with
    `data/<class>/<image>` and 600 images a class; or the archives `cifar_fs_train.tar.xz` and
    `cifar_fs_valtest.tar.xz`, or the folder `cifar_fs` extracted from them, whose `classes.csv`
    has the number of images of each class. FC100 needs both archives for every part. Raises
    `DataError` for an unknown split or part, and for files that are missing, damaged or incomplete.
    """
    dataset, part = request.data.dataset, request.part
    check_split_name(request.data.split, (CIFAR_SPLITS[dataset].name,), dataset)
    if part not in PARTS:
        raise DataError(f"part of {dataset}: expected one of {', '.join(PARTS)}, got {part!r}")
    extracted, upstream = request.folder / FOLDER, request.folder / UPSTREAM_FOLDER
    if extracted.is_dir():
        counts = _image_counts(read_table(extracted / TABLE, COLUMNS), str(extracted / TABLE))
        classes: dict[str, list[str]] = {}
        for listed in list_parts(extracted).values():
            classes |= listed
        return read_folder_files(request, _choose(request, extracted, classes, counts))
    if upstream.is_dir():
        classes = list_class_folders(upstream)
        counts = dict.fromkeys(classes, UPSTREAM_IMAGE_COUNT)
        return read_folder_files(request, _choose(request, upstream, classes, counts))
    archives = _archives(request)
    digests = (file_digest(path) for path in archives)
    key = cache_key(request, f"{dataset}|{part}", *digests)
    return cached_dataset(key, lambda: _decode_archives(request, archives))


def _archives(request: PartRequest) -> list[Path]:
    """Find the archives that hold a part; both hold classes of each part of FC100."""
    parts = PARTS if request.data.dataset == "fc100" else (request.part,)
    archives = [request.folder / name for name in dict.fromkeys(ARCHIVES[part] for part in parts)]
    for path in archives:
        if not path.is_file():
            raise DataError(f"{path.parent} has no {path.name} and no folder {FOLDER}; {_REMEDY}")
    return archives


def _decode_archives(request: PartRequest, archives: Sequence[Path]) -> ImageDataset:
    members: dict[str, bytes] = {}
    for path in archives:
        members |= _members(path)
    source = f"{TABLE} in {archives[0]}"
    if TABLE not in members:
        raise DataError(f"{archives[0]} has no {FOLDER}/{TABLE}; {_REMEDY}")
    counts = _image_counts(parse_table(members[TABLE], COLUMNS, source), source)
    classes: dict[str, list[str]] = {}
    for name in sorted(members):
        classes.setdefault(PurePosixPath(name).parent.name, []).append(name)
    files = _choose(request, request.folder, classes, counts)
    return decode_classes(files, members.__getitem__, request.input_spec, request.progress)


def _members(path: Path) -> dict[str, bytes]:
    """Return the files of an archive by their paths in the folder, in one pass."""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:xz") as archive:
            for member in archive:
                folder, _, name = member.name.removeprefix("./").partition("/")
                wanted = folder == FOLDER and member.isfile()
                if wanted and (content := archive.extractfile(member)):
                    members[name] = content.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise DataError(
            f"{path}: truncated, or not a tar.xz archive ({error}); get the archive again"
        ) from error
    return members


def _image_counts(rows: Iterable[tuple[int, tuple[str, ...]]], source: str) -> dict[str, int]:
    """Return the number of images of each class.

    Raises `DataError` for a class that is named twice, and for a count that is not a number.
    """
    counts: dict[str, int] = {}
    for line, (name, *_, count) in rows:
        if not (count.isascii() and count.isdigit()):
            raise DataError(f"{source}, line {line}: expected a number of images, got {count!r}")
        if name in counts:
            raise DataError(f"{source}, line {line}: class {name!r} is named twice")
        counts[name] = int(count)
    return counts


def _choose(
    request: PartRequest,
    source: Path,
    classes: Mapping[str, Sequence[str]],
    counts: Mapping[str, int],
) -> ClassFiles:
    """Choose the files of a part's classes, and check their number."""
    dataset, part = request.data.dataset, request.part
    known = CIFAR_SPLITS[dataset]
    split = {
        "train": sorted(counts.keys() - {*known.val, *known.test}),
        "val": sorted(counts.keys() & known.val),
        "test": sorted(counts.keys() & known.test),
    }
    if split_digest(split) != known.digest:
        raise DataError(f"{source} does not have the classes of {dataset}'s split {known.name}")
    chosen = {name: classes.get(name, []) for name in classes_of(split, part, dataset)}
    for name, files in chosen.items():
        if len(files) != counts[name]:
            place = f"class {name} of {dataset} in {source}"
            raise DataError(f"{place}: expected {counts[name]} images, got {len(files)}")
    return ClassFiles(f"{dataset} {known.name} {part}", source, chosen, known.digest)
