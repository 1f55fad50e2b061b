"""Sets of pictures as they are sent: encoded bytes with their classes and groups."""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kshot.trainer.datasets.class_folders import list_class_folders
from kshot.trainer.errors import DataError, reading

Rows = npt.NDArray[np.int64]
GROUPS_FILE = "GROUPS.json"


@dataclass(frozen=True)
class PictureSet:
    """Encoded pictures, their classes 0..class_count-1, and what each was taken from.

    A group is a recording, a speaker or a family of fonts; without groups no pictures belong
    together.
    """

    pictures: tuple[bytes, ...]
    classes: Rows
    class_names: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 over classes, groups and the pictures' bytes."""
        digest = hashlib.sha256(json.dumps([self.class_names, self.groups]).encode())
        digest.update(self.classes.astype("<i8").tobytes())
        for picture in self.pictures:
            digest.update(len(picture).to_bytes(8, "little") + picture)
        return digest.hexdigest()

    def some(self, rows: Rows) -> "PictureSet":
        """Return some pictures as a set without groups."""
        pictures = tuple(self.pictures[row] for row in rows)
        return PictureSet(pictures, self.classes[rows], self.class_names)


def picture_set(found: Iterable[tuple[str, str | None, bytes]]) -> PictureSet:
    """Return a set of (class, group or None, picture), in their order; classes are sorted."""
    names, groups, pictures = zip(*found, strict=True)
    class_names, classes = np.unique(names, return_inverse=True)
    known = None if None in groups else tuple(groups)
    return PictureSet(pictures, classes.astype(np.int64), tuple(map(str, class_names)), known)


def read_archive(path: Path, *, grouped: bool = False) -> PictureSet:
    """Read `<set>/<class>/<picture>` from a tar archive, in memory.

    Groups are those of the set in `GROUPS.json` beside it. Raises `DataError`.
    """
    with reading(path):
        try:
            with tarfile.open(path) as archive:
                files = sorted((item for item in archive if item.isfile()), key=_name)
                contents = {item.name: _content(archive, item) for item in files}
        except tarfile.TarError as error:
            raise DataError(f"{path}: damaged, or not a tar archive ({error})") from error
    keys = {name: name.split("/", 1)[1] for name in contents if name.count("/") == 2}
    return _of_files({key: contents[name] for name, key in keys.items()}, _groups(path, grouped))


def read_folder(folder: Path) -> PictureSet:
    """Read `<class>/<picture>` from a folder; raises `DataError`."""
    listed = list_class_folders(folder)
    names = [name for names in listed.values() for name in names]
    return _of_files({name: (folder / name).read_bytes() for name in names}, None)


def _of_files(files: Mapping[str, bytes], groups: Mapping[str, str] | None) -> PictureSet:
    if not files:
        raise DataError("the archive holds no <set>/<class>/<picture>")
    of: Callable[[str], str | None] = (groups or {}).get
    return picture_set((name.split("/")[0], of(name), data) for name, data in files.items())


def _groups(path: Path, grouped: bool) -> Mapping[str, str] | None:
    if not grouped:
        return None
    groups: Mapping[str, str] = json.loads((path.parent / GROUPS_FILE).read_text())[path.stem]
    return groups


def _name(item: tarfile.TarInfo) -> str:
    return item.name


def _content(archive: tarfile.TarFile, item: tarfile.TarInfo) -> bytes:
    opened = archive.extractfile(item)
    return b"" if opened is None else opened.read()


@dataclass(frozen=True)
class Task:
    """Rows of a set: support and query pictures, class by class, with labels 0..way-1."""

    support: Rows
    support_labels: Rows
    queries: Rows
    query_labels: Rows


def draw_tasks(
    pictures: PictureSet, sizes: tuple[int, int, int], task_count: int, seed: int
) -> Sequence[Task]:
    """Draw tasks of (way, shot, queries per class); equal seeds draw equal tasks.

    Classes and pictures are drawn without replacement. Where the set has groups, those of the
    queries are kept out of the support set: groups in random order are the queries' until each
    class has enough pictures in them, and the others are the support set's. Raises `DataError`
    when the set is too small.
    """
    generator = np.random.default_rng(seed)
    return [_draw_task(pictures, sizes, generator) for _ in range(task_count)]


def _draw_task(
    pictures: PictureSet, sizes: tuple[int, int, int], generator: np.random.Generator
) -> Task:
    way, shot, query_count = sizes
    if way > len(pictures.class_names):
        raise DataError(f"expected at least {way} classes, got {len(pictures.class_names)}")
    drawn = generator.choice(len(pictures.class_names), way, replace=False)
    members = [generator.permutation(np.flatnonzero(pictures.classes == one)) for one in drawn]
    if pictures.groups is None:
        sides = [(rows[:shot], rows[shot : shot + query_count]) for rows in members]
    else:
        asked = _asked_groups(members, pictures.groups, query_count, generator)
        of = np.asarray([group in asked for group in pictures.groups])
        sides = [(rows[~of[rows]][:shot], rows[of[rows]][:query_count]) for rows in members]
    for one, (support, queries) in zip(drawn, sides, strict=True):
        if len(support) < shot or len(queries) < query_count:
            raise DataError(
                f"class {pictures.class_names[one]}: expected {shot} examples and {query_count} "
                f"queries, got {len(support)} and {len(queries)}"
            )
    labels = np.arange(way)
    return Task(
        np.concatenate([support for support, _ in sides]),
        labels.repeat(shot),
        np.concatenate([queries for _, queries in sides]),
        labels.repeat(query_count),
    )


def _asked_groups(
    members: Sequence[Rows],
    groups: Sequence[str],
    query_count: int,
    generator: np.random.Generator,
) -> set[str]:
    """Draw the groups of the queries: only as many as the classes need."""
    sizes: dict[str, dict[int, int]] = {}
    for label, rows in enumerate(members):
        for row in rows:
            of = sizes.setdefault(groups[row], {})
            of[label] = of.get(label, 0) + 1
    missing = dict.fromkeys(range(len(members)), query_count)
    asked: set[str] = set()
    for group in generator.permutation(sorted(sizes)):
        if any(missing[label] > 0 for label in sizes[group]):
            asked.add(str(group))
            for label, size in sizes[group].items():
                missing[label] -= size
    return asked
