"""CIFAR-FS and FC100: the 100 classes of CIFAR-100, 32x32 in colour, in two few-shot splits."""

import lzma
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kshot.bundle import InputSpec
from kshot.trainer.cache import cached_dataset
from kshot.trainer.class_folders import list_parts, read_class_files
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.decoding import DECODER_VERSION, ClassFiles, Progress, decode_classes
from kshot.trainer.errors import DataError
from kshot.trainer.image_files import file_digest
from kshot.trainer.recipe import Data
from kshot.trainer.splits import PARTS, check_split_name, classes_of, parse_table, split_digest

__all__ = ["read_cifar_fs", "read_fc100"]

FOLDER = "cifar_fs"
# What holds the classes that CIFAR-FS has for training, validation and test.
ARCHIVES = {
    "train": "cifar_fs_train.tar.xz",
    "val": "cifar_fs_valtest.tar.xz",
    "test": "cifar_fs_valtest.tar.xz",
}
COLUMNS = ("class", "superclass", "cifar_fs_split", "fc100_split", "images")
# By data set: its split's name, and the SHA-256 of that (`kshot.trainer.splits.split_digest`).
SPLITS = {
    "cifar-fs": ("bertinetto", "e4e845fa943de1e0eb914cf8dc0d34baeb3710df7d03e5c8f0d40490238abb86"),
    "fc100": ("oreshkin", "d857734eb3a351c886781a8480849cb53c6a659d8f4b9e9a601892ced3a15d7e"),
}


@dataclass(frozen=True)
class _Row:
    """A class as ``classes.csv`` has it; ``stored`` is the folder of parts that it lies in."""

    name: str
    stored: str
    part: str
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

    ``data_folder`` holds ``cifar_fs_train.tar.xz`` and ``cifar_fs_valtest.tar.xz`` or the folder
    ``cifar_fs`` extracted from them; their ``classes.csv`` says how many images each class has.
    Raises DataError for an unknown split or part, and for what is missing, damaged or incomplete.
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

    The split is that of Oreshkin et al., "TADAM" (2018); the files are those of CIFAR-FS, both
    archives for every part. Raises DataError as `read_cifar_fs` does.
    """
    return _read(data, data_folder, part, input_spec, progress)


def _read(
    data: Data, data_folder: Path, part: str, input_spec: InputSpec, progress: Progress | None
) -> ImageDataset:
    split_name, _ = SPLITS[data.dataset]
    check_split_name(data.split, (split_name,), data.dataset)
    if part not in PARTS:
        raise DataError(f"part of {data.dataset} is {part!r}, wanted one of: {', '.join(PARTS)}")
    if (data_folder / FOLDER).is_dir():
        folder = data_folder / FOLDER
        rows = _rows(_text(folder / "classes.csv"), data.dataset, str(folder / "classes.csv"))
        parts = list_parts(folder).values()
        listed = [name for classes in parts for names in classes.values() for name in names]
        return read_class_files(_choose(data, part, folder, rows, listed), input_spec, progress)
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
    "wanted the archives cifar_fs_train.tar.xz and cifar_fs_valtest.tar.xz or the folder cifar_fs: "
    "CIFAR-100 (www.cs.toronto.edu/~kriz/cifar.html) as <part>/<class>/<image> beside classes.csv, "
    "see docs/data.md"
)


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
    """Read ``classes.csv`` and check that it has the published split."""
    rows: dict[str, _Row] = {}
    for line, (name, _, stored, fc100_part, image_count) in parse_table(text, COLUMNS, source):
        if name in rows:
            raise DataError(f"{source}, line {line}, names class {name!r} twice, wanted it once")
        if not (image_count.isascii() and image_count.isdigit()):
            raise DataError(f"{source}, line {line}, has {image_count!r} images, wanted a number")
        part = stored if dataset == "cifar-fs" else fc100_part
        rows[name] = _Row(name, stored, part, int(image_count))
    split = {part: sorted(row.name for row in rows.values() if row.part == part) for part in PARTS}
    split_name, digest = SPLITS[dataset]
    if split_digest(split) != digest:
        raise DataError(f"{source} does not have the classes of {dataset}'s split {split_name}")
    return list(rows.values())


def _choose(
    data: Data, part: str, source: Path, rows: Sequence[_Row], names: Sequence[str]
) -> ClassFiles:
    """Take the files of a part's classes, and check their number."""
    files: dict[str, list[str]] = {}
    for name in sorted(names):
        files.setdefault(name.rpartition("/")[0], []).append(name)
    split = {name: sorted(row.name for row in rows if row.part == name) for name in PARTS}
    known: Mapping[str, _Row] = {row.name: row for row in rows}
    chosen: dict[str, list[str]] = {}
    for name in classes_of(split, part, data.dataset):
        row = known[name]
        chosen[name] = files.get(f"{row.stored}/{name}", [])
        if len(chosen[name]) != row.image_count:
            raise DataError(
                f"class {name!r} of {data.dataset} in {source} has {len(chosen[name])} images, "
                f"wanted {row.image_count} as in classes.csv"
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
