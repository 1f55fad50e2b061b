"""The store's files: one safetensors file per adapted model, written atomically."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from kshot.bundle import TAIL_MIX, replace_file, sync_folder
from kshot.server.store.adapted_model import TAIL, AdaptedArrays, Arrays

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PARAMETERS = "parameters."
_STATISTICS = "statistics."
_SUPPORT = "support"
_REFERENCES = "references"
_SPAN = "span."
# The largest arrays: their numbers are those of float16.
_BASIS = _SPAN + "basis"
_HALVES, _MIX = _PARAMETERS + TAIL, _PARAMETERS + TAIL_MIX
_SUFFIX = ".safetensors"
_PARTIAL = ".partial"


def checked_id(model_id: str) -> str:
    """Return an id if it is safe in a file name; raise `ValueError` otherwise."""
    if not _ID.fullmatch(model_id):
        raise ValueError(f"id: expected a match of {_ID.pattern}, got {model_id[:64]!r}")
    return model_id


def arrays_bytes(arrays: AdaptedArrays) -> bytes:
    """Return the content of an adapted model's file."""
    tensors = {_PARAMETERS + name: array for name, array in arrays.parameters.items()}
    tensors |= {_STATISTICS + name: array for name, array in arrays.statistics.items()}
    tensors[_SUPPORT] = arrays.support
    if arrays.references.size:
        tensors[_REFERENCES] = arrays.references
    tensors |= {_SPAN + name: array for name, array in arrays.span.items()}
    whole = {
        name: np.asarray(array, _kept_type(name, array), order="C")
        for name, array in tensors.items()
    }
    return safetensors.numpy.save(whole)


def _kept_type(name: str, array: npt.NDArray[np.float32]) -> type[np.floating[Any]]:
    """Return the type to write an array in; those of a tail lose no bit."""
    if name == _BASIS:
        return np.float16
    if not name.startswith(_HALVES) or name == _MIX:
        return np.float32
    with np.errstate(over="ignore"):
        same = np.array_equal(array.astype(np.float16).astype(np.float32), array)
    return np.float16 if same else np.float32


def parse_arrays(content: bytes) -> AdaptedArrays:
    """Return an adapted model's file, whose digest was checked, as read-only arrays."""
    tensors = cast(dict[str, npt.NDArray[np.float32]], safetensors.numpy.load(content))
    for name, array in tensors.items():
        tensors[name] = array.astype(np.float32, copy=False)
        tensors[name].flags.writeable = False
    return AdaptedArrays(
        _below(_PARAMETERS, tensors),
        _below(_STATISTICS, tensors),
        tensors[_SUPPORT],
        tensors.get(_REFERENCES, np.empty(0, np.float32)),
        _below(_SPAN, tensors),
    )


class StoreFiles:
    """The folders `models` and `quarantine` of a store; every method raises `OSError`."""

    def __init__(self, root: Path) -> None:
        self._models = root / "models"
        self._quarantine = root / "quarantine"

    def open(self) -> None:
        """Make the folders and check that they are writable."""
        for folder in (self._models, self._quarantine):
            folder.mkdir(mode=0o700, exist_ok=True)
            probe = folder / f".probe{_PARTIAL}"
            replace_file(probe, b"")
            probe.unlink()
        sync_folder(self._models.parent)

    def write(self, model_id: str, content: bytes) -> None:
        """Write a file durably; if this fails, nothing of it is left."""
        path = self._path(model_id)
        try:
            replace_file(path, content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def read(self, model_id: str) -> bytes:
        """Return the content of a file; raise `FileNotFoundError` if there is none."""
        return self._path(model_id).read_bytes()

    def remove(self, model_ids: Collection[str]) -> None:
        """Remove files durably, from both folders."""
        if not model_ids:
            return
        names = [self._path(model_id).name for model_id in model_ids]
        for folder in (self._models, self._quarantine):
            for name in names:
                (folder / name).unlink(missing_ok=True)
            sync_folder(folder)

    def quarantine(self, model_id: str) -> None:
        """Move a damaged file aside for operators; do nothing if there is none."""
        path = self._path(model_id)
        if path.exists():
            path.rename(self._quarantine / path.name)
            sync_folder(self._quarantine)
            sync_folder(self._models)

    def ids(self) -> set[str]:
        """Return the ids that have a file."""
        return set(_ids(self._models))

    def sweep(self, known: set[str]) -> None:
        """Remove partial files, and whole ones whose id is not `known`."""
        for folder in (self._models, self._quarantine):
            for path in folder.glob(f".*{_PARTIAL}"):
                path.unlink()
            for model_id in set(_ids(folder)) - known:
                (folder / f"{model_id}{_SUFFIX}").unlink()
            sync_folder(folder)

    def _path(self, model_id: str) -> Path:
        return self._models / f"{checked_id(model_id)}{_SUFFIX}"


def _below(prefix: str, tensors: Arrays) -> Arrays:
    names = (name for name in tensors if name.startswith(prefix))
    return {name.removeprefix(prefix): tensors[name] for name in names}


def _ids(folder: Path) -> Iterator[str]:
    for path in folder.iterdir():
        if path.suffix == _SUFFIX and _ID.fullmatch(path.stem):
            yield path.stem
