"""The store's files: one per adapted model, whole under its name or not there.

`models/ID.safetensors` is a model. `.ID.safetensors.partial` beside it is one that is being
written: it gets its name when both it and its row are on disk, and replaces the file of this name.
`ID.memory` is a model that ends with the process that wrote it: only this one reads it.
`ID.deleted` and `ID.expired` stand for models that are gone where the index has no room to say so.
`quarantine` has what is damaged. Links, pipes and folders with such names are none of ours: they
are left alone.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kshot.bundle import sync_folder
from kshot.server.store.ownership import private_folder

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SUFFIX = ".safetensors"
_MEMORY = ".memory"
_PARTIAL = ".partial"
_GONE = {".deleted": True, ".expired": False}
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_HEADER_BYTES = 2**20
# A pipe would let the reader wait, a link would lead elsewhere.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def checked_id(model_id: str) -> str:
    """Return an id if it is safe in a file name; raise `ValueError` otherwise."""
    if not _ID.fullmatch(model_id):
        raise ValueError(f"id: expected a match of {_ID.pattern}, got {model_id[:64]!r}")
    return model_id


@dataclass(frozen=True)
class Found:
    """What lies in the folders: ids with a file, ids that are being written, ids that are gone.

    `gone` tells which were deleted; the others have expired. `memory` has those that ended with
    another process.
    """

    models: frozenset[str]
    partial: frozenset[str]
    gone: dict[str, bool]
    memory: frozenset[str]
    quarantined: frozenset[str]
    foreign: tuple[Path, ...]


class StoreFiles:
    """The folders `models` and `quarantine` of a store; every method raises `OSError`."""

    def __init__(self, root: Path) -> None:
        self._models = root / "models"
        self._quarantine = root / "quarantine"
        self._opened: os.stat_result | None = None
        self._in_memory: set[str] = set()

    @property
    def quarantine_folder(self) -> Path:
        """Return the folder of what is damaged."""
        return self._quarantine

    def open(self) -> None:
        """Make the folders and check that they are ours and writable; raise `StartError` too."""
        for folder in (self._models, self._quarantine):
            private_folder(folder)
            probe = folder / f".probe{_PARTIAL}"
            os.close(os.open(probe, _WRITE, 0o600))
            probe.unlink()
        sync_folder(self._models.parent)
        self._opened = self._models.stat()

    def write(self, model_id: str, parts: Sequence[bytes | memoryview]) -> None:
        """Write a file durably, which `finish` names; if this fails, nothing of it is left."""
        try:
            with self.create(model_id) as file:
                fill(file, parts)
            self.sync_names()
        except BaseException:
            self.drop_partial(model_id)
            raise

    def write_unsynced(self, model_id: str, parts: Sequence[bytes | memoryview]) -> None:
        """Write a file that ends with this process, under its name; see `discard`."""
        self._in_memory.add(model_id)
        with self.create(model_id) as file:
            file.writelines(parts)
        self.finish(model_id)

    def create(self, model_id: str) -> BinaryIO:
        """Return a new file, which `finish` names, to `fill` and close."""
        path = self._partial(model_id)
        return open(path, "wb", opener=lambda name, _: os.open(name, _WRITE, 0o600))

    def sync_names(self) -> None:
        """Wait until the names of models, finished or not, are on disk."""
        sync_folder(self._models)

    def finish(self, model_id: str) -> None:
        """Give a written file its name, also that of the file that it replaces."""
        self._partial(model_id).rename(self._path(model_id))

    def read(self, model_id: str) -> bytes:
        """Return the content of a file; raise `FileNotFoundError` if there is none.

        What is no file counts as none; a folder that is not there any more fails otherwise.
        """
        return self._content(self._path(model_id))

    def read_partial(self, model_id: str) -> bytes:
        """Return what has no name yet; raise as `read` does."""
        return self._content(self._partial(model_id))

    def remove(self, model_ids: Collection[str]) -> None:
        """Remove all files of ids durably; one that cannot be removed does not keep the others."""
        if not model_ids:
            return
        wanted = set(map(checked_id, model_ids))
        ends = (_SUFFIX, _MEMORY, *_GONE)
        named = [self._models / f"{model_id}{end}" for model_id in wanted for end in ends]
        aside = [path for path in self._quarantine.iterdir() if _id_of(path) in wanted]
        failed = None
        for path in (*named, *aside):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                if not path.is_dir():  # a folder is none of ours
                    failed = error
        sync_folder(self._models)
        sync_folder(self._quarantine)
        if failed is not None:
            raise failed
        self._in_memory.difference_update(wanted)

    def takes_room(self, model_id: str) -> bool:
        """Tell whether `empty` would free any."""
        return any(True for _ in self._places(checked_id(model_id)))

    def empty(self, model_ids: Collection[str], *, deleted: bool) -> None:
        """Free the room of models and note durably that they are gone; this needs no room."""
        end = next(end for end, kind in _GONE.items() if kind is deleted)
        markers = [self._models / f"{checked_id(model_id)}{end}" for model_id in model_ids]
        for marker in markers:
            for place in self._places(marker.stem):
                place.rename(marker)
        sync_folder(self._models)  # a model that is emptied is gone, not damaged
        for marker in markers:
            os.close(os.open(marker, _WRITE, 0o600))
        sync_folder(self._models)

    def drop_partial(self, model_id: str) -> None:
        """Remove what was written in place of a file that stays."""
        self._partial(model_id).unlink(missing_ok=True)

    def discard(self, model_id: str) -> None:
        """Remove what was written for an id that nobody has heard of."""
        self._partial(model_id).unlink(missing_ok=True)
        self.remove([model_id])

    def quarantine(self, model_id: str) -> bool:
        """Move a damaged file aside for operators; return whether there was one."""
        path = self._path(model_id)
        if not _regular(path):
            return False
        name = f"{model_id}{_SUFFIX}"
        names = itertools.chain((name,), (f"{name}.{n}" for n in itertools.count(1)))
        free = (self._quarantine / name for name in names)
        path.rename(next(place for place in free if not os.path.lexists(place)))
        sync_folder(self._quarantine)
        sync_folder(self._models)
        return True

    def clear_quarantine(self, wanted: Callable[[str, bytes], bool]) -> None:
        """Remove what is in quarantine unless it is wanted, by its id and content.

        Indices that repairs moved there go as well: they name what other files held.
        """
        for path in self._quarantine.iterdir():
            if not _regular(path):
                if path.name.startswith("index-") and not path.is_symlink():
                    shutil.rmtree(path)
            elif not wanted(_id_of(path), self._content(path)):
                path.unlink()
        sync_folder(self._quarantine)

    def find(self) -> Found:
        """Return what lies in the folders."""
        models, partial, memory, gone, foreign = set(), set(), set(), {}, []
        for path in self._models.iterdir():
            model_id, end = path.stem, path.suffix
            written = path.name.removeprefix(".").removesuffix(f"{_SUFFIX}{_PARTIAL}")
            if not _regular(path):
                foreign.append(path)
            elif end == _SUFFIX and _ID.fullmatch(model_id):
                models.add(model_id)
            elif end in _GONE and _ID.fullmatch(model_id):
                gone[model_id] = _GONE[end]
            elif end == _MEMORY and _ID.fullmatch(model_id):
                memory.add(model_id)
            elif path.name == f".{written}{_SUFFIX}{_PARTIAL}" and _ID.fullmatch(written):
                partial.add(written)
            elif not (path.name.startswith(".") and end == _PARTIAL):
                foreign.append(path)
        aside = frozenset(map(_id_of, self._quarantine.iterdir())) - {""}
        whole, unnamed, ended = map(frozenset, (models, partial, memory))
        return Found(whole, unnamed, gone, ended, aside, tuple(foreign))

    def newest_headers(self, count: int) -> Iterator[bytes]:
        """Yield the first bytes, header included, of the files that were written last."""
        paths = (path for path in self._models.glob(f"*{_SUFFIX}") if _regular(path))
        for path in heapq.nlargest(count, paths, key=lambda each: each.stat().st_mtime_ns):
            with open(path, "rb", opener=lambda name, _: os.open(name, _READ)) as file:
                length = file.read(8)
                yield length + file.read(min(int.from_bytes(length, "little"), _MAX_HEADER_BYTES))

    def clear_partial(self) -> None:
        """Remove what was never finished: a row comes before the name, so nobody knows of it.

        Where rows were lost, `recovery` names what is whole before.
        """
        for folder in (self._models, self._quarantine):
            for path in folder.glob(f".*{_PARTIAL}"):
                if _regular(path):
                    path.unlink()
            sync_folder(folder)

    def _content(self, path: Path) -> bytes:
        try:
            descriptor = os.open(path, _READ)
        except FileNotFoundError:
            self._check_folder()
            raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise FileNotFoundError(error.errno, "not a file") from error
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "not a file")
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def _check_folder(self) -> None:
        """Raise unless the folder is the one that was opened: nothing is lost if it is away."""
        try:
            if self._opened is None or os.path.samestat(self._models.stat(), self._opened):
                return
        except FileNotFoundError:
            pass
        raise OSError(errno.ESTALE, "the folder of models is another one, or away")

    def _places(self, model_id: str) -> Iterator[Path]:
        """Yield the files of a model, in its folder or in quarantine."""
        for place in (self._path(model_id), self._quarantine / f"{model_id}{_SUFFIX}"):
            if _regular(place):
                yield place

    def _path(self, model_id: str) -> Path:
        end = _MEMORY if model_id in self._in_memory else _SUFFIX
        return self._models / f"{checked_id(model_id)}{end}"

    def _partial(self, model_id: str) -> Path:
        path = self._path(model_id)
        return path.with_name(f".{path.name}{_PARTIAL}")


def fill(file: BinaryIO, parts: Sequence[bytes | memoryview]) -> None:
    """Write parts to a file, and wait until they are on disk."""
    file.writelines(parts)
    file.flush()
    os.fsync(file.fileno())


def _id_of(path: Path) -> str:
    """Return the id in the name of a file in quarantine, "" if it has none."""
    model_id, _, end = path.name.partition(".")
    return model_id if f".{end}".startswith(_SUFFIX) and _ID.fullmatch(model_id) else ""


def _regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
