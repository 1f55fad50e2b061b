"""CIFAR-FS and FC100: the 100 classes of CIFAR-100, 32x32 in colour, in two few-shot splits."""

import lzma
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kshot.bundle import InputSpec
from kshot.trainer.datasets.cache import cached_dataset
from kshot.trainer.datasets.cifar_splits import CIFAR_SPLITS, check_cifar_split
from kshot.trainer.datasets.class_folders import list_parts, read_class_files
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.decoding import DECODER_VERSION, ClassFiles, Progress, decode_classes
from kshot.trainer.datasets.image_files import file_digest, list_class_folders
from kshot.trainer.datasets.splits import (
    PARTS,
    check_split_name,
    classes_of,
    parse_table,
    split_digest,
)
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data

__all__ = ["read_cifar_fs", "read_fc100"]

FOLDER = "cifar_fs"
UPSTREAM_FOLDER = Path("cifar100", "data")
UPSTREAM_IMAGE_COUNT = 600
# What holds the classes that CIFAR-FS has for training, validation and test.
ARCHIVES = {
    "train": "cifar_fs_train.tar.xz",
    "val": "cifar_fs_valtest.tar.xz",
    "test": "cifar_fs_valtest.tar.xz",
}
COLUMNS = ("class", "superclass", "cifar_fs_split", "fc100_split", "images")


@dataclass(frozen=True)
class _Row:
    """A class: its part of the split, and the folder and number of its images."""

    name: str
    part: str
    folder: str
    image_count: int


def read_cifar_fs(
    data: Data,
    data_folder: Path,
    part: str,
    *,
    input_spec: InputSpec,
    progress: Progress | None = None,
) -> ImageDataset:
    """Read a part of CIFAR-FS, 64, 16 and 20 classes (Bertinetto et al., ICLR 2019).

    ``data_folder`` holds the folder ``cifar100`` as the authors' archive has it, with
    ``data/<class>/<image>`` and 600 images a class; or the archives ``cifar_fs_train.tar.xz`` and
    ``cifar_fs_valtest.tar.xz``, or the folder ``cifar_fs`` extracted from them, whose
    ``classes.csv`` says how many images each class has. Raises DataError for an unknown split or
    part, and for what is missing, damaged or incomplete.
    """
    return _read(data, data_folder, part, input_spec, progress)


def read_fc100(
    data: Data,
    data_folder: Path,
    part: str,
    *,
    input_spec: InputSpec,
    progress: Progress | None = None,
) -> ImageDataset:
    """Read a part of FC100, 60, 20 and 20 classes of 12, 4 and 4 superclasses.

    The split is that of Oreshkin et al., "TADAM" (NeurIPS 2018); the files are those of CIFAR-FS,
    both archives for every part. Raises DataError as `read_cifar_fs` does.
    """
    return _read(data, data_folder, part, input_spec, progress)


def _read(
    data: Data, data_folder: Path, part: str, input_spec: InputSpec, progress: Progress | None
) -> ImageDataset:
    check_split_name(data.split, (CIFAR_SPLITS[data.dataset].name,), data.dataset)
    if part not in PARTS:
        raise DataError(f"part of {data.dataset} is {part!r}, wanted one of: {', '.join(PARTS)}")
    for folder, listed in ((FOLDER, _extracted), (UPSTREAM_FOLDER, _upstream)):
        if (data_folder / folder).is_dir():
            rows, names = listed(data_folder / folder, data.dataset)
            files = _choose(data, part, data_folder / folder, rows, names)
            return read_class_files(files, input_spec, progress)
    archives = _archives(data, data_folder, part)

    def decode() -> ImageDataset:
        members: dict[str, bytes] = {}
        with ThreadPoolExecutor() as pool:
            for found in pool.map(_members, archives):
                members |= found
        table = members.get("classes.csv")
        if table is None:
            raise DataError(f"{archives[0]} has no {FOLDER}/classes.csv; {_WANTED}")
        rows = _rows(_decoded(table, archives[0]), data.dataset, f"classes.csv in {archives[0]}")
        files = _choose(data, part, data_folder, rows, list(members))
        return decode_classes(files, members.__getitem__, input_spec, progress)

    digests = (file_digest(path) for path in archives)
    return cached_dataset(
        "|".join((data.dataset, part, str(DECODER_VERSION), *digests, repr(input_spec))), decode
    )


def _archives(data: Data, data_folder: Path, part: str) -> list[Path]:
    """Find the archives that hold a part: FC100 has its classes in both."""
    names = (
        (ARCHIVES[part],) if data.dataset == "cifar-fs" else tuple(dict.fromkeys(ARCHIVES.values()))
    )
    for name in names:
        if not (data_folder / name).is_file():
            raise DataError(f"{data_folder} has no {name} and no folder {FOLDER}; {_WANTED}")
    return [data_folder / name for name in names]


_WANTED = (
    "wanted the folder cifar100 with data/<class>/<image>, from the archive of CIFAR-FS's authors "
    "(github.com/bertinetto/r2d2), or the archives that docs/data.md describes"
)


def _extracted(folder: Path, dataset: str) -> tuple[list[_Row], list[str]]:
    """List the folder that the archives have."""
    rows = _rows(_text(folder / "classes.csv"), dataset, str(folder / "classes.csv"))
    parts = list_parts(folder).values()
    return rows, [name for classes in parts for names in classes.values() for name in names]


def _upstream(folder: Path, dataset: str) -> tuple[list[_Row], list[str]]:
    """List the folder of class folders that CIFAR-FS's authors give."""
    classes = list_class_folders(folder)
    split = CIFAR_SPLITS[dataset]
    rows = [_Row(name, split.part_of(name), name, UPSTREAM_IMAGE_COUNT) for name in classes]
    return rows, [name for names in classes.values() for name in names]


def _members(path: Path) -> dict[str, bytes]:
    """Return the files of an archive by their paths in the folder, in one pass."""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:xz") as archive:
            for member in archive:
                folder, _, name = member.name.removeprefix("./").partition("/")
                if folder == FOLDER and member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None  # noqa: S101 -- it is a file
                    members[name] = content.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise DataError(
            f"{path} is truncated or no tar.xz archive ({error}); get the archive again"
        ) from error
    return members


def _rows(text: str, dataset: str, source: str) -> list[_Row]:
    """Read ``classes.csv``; raises DataError unless it has each class once, with a number."""
    rows: dict[str, _Row] = {}
    for line, (name, _, stored, fc100_part, image_count) in parse_table(text, COLUMNS, source):
        if name in rows:
            raise DataError(f"{source}, line {line}, names class {name!r} twice, wanted it once")
        if not (image_count.isascii() and image_count.isdigit()):
            raise DataError(f"{source}, line {line}, has {image_count!r} images, wanted a number")
        part = stored if dataset == "cifar-fs" else fc100_part
        rows[name] = _Row(name, part, f"{stored}/{name}", int(image_count))
    return list(rows.values())


def _choose(
    data: Data, part: str, source: Path, rows: Sequence[_Row], names: Sequence[str]
) -> ClassFiles:
    """Take the files of a part's classes, and check their number."""
    files: dict[str, list[str]] = {}
    for name in sorted(names):
        files.setdefault(name.rpartition("/")[0], []).append(name)
    known = {row.name: row for row in rows}
    split = check_cifar_split(data.dataset, {row.name: row.part for row in rows}, source)
    chosen: dict[str, list[str]] = {}
    for name in classes_of(split, part, data.dataset):
        chosen[name] = files.get(known[name].folder, [])
        if len(chosen[name]) != known[name].image_count:
            raise DataError(
                f"class {name!r} of {data.dataset} in {source} has {len(chosen[name])} images, "
                f"wanted {known[name].image_count}"
            )
    title = f"{data.dataset} {data.split} {part}"
    return ClassFiles(title, source, chosen, split_digest(split))


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; {_WANTED}") from error
    return _decoded(content, path)


def _decoded(content: bytes, source: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"classes.csv in {source} is not text in UTF-8") from error
