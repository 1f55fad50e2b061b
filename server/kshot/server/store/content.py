"""The content of an adapted model's file: its arrays, and its record with a digest over all.

The file alone says what it is, so that a lost index can be made again from the files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from kshot.bundle import TAIL_MIX
from kshot.server.store.adapted_model import TAIL, AdaptedArrays, AdaptedModelRecord, Arrays
from kshot.server.store.rows import parse_record, record_text

_PARAMETERS = "parameters."
_STATISTICS = "statistics."
_SUPPORT = "support"
_REFERENCES = "references"
_SPAN = "span."
# The largest arrays: their numbers are those of float16.
_BASIS = _SPAN + "basis"
_HALVES, _MIX = _PARAMETERS + TAIL, _PARAMETERS + TAIL_MIX
_RECORD, _DIGEST = "record", "digest"
_UNSET = "0" * 64  # stands for the digest while it is computed


def model_bytes(model: AdaptedModelRecord, arrays: AdaptedArrays) -> bytes:
    """Return the content of an adapted model's file."""
    content = arrays_bytes(arrays, {_RECORD: record_text(model), _DIGEST: _UNSET})
    place = _digest_place(content, _UNSET)
    digest = hashlib.sha256(content).hexdigest().encode()
    return b"".join((content[:place], digest, content[place + len(digest) :]))


def described(content: bytes) -> AdaptedModelRecord:
    """Return the record in a file, with the file's size; raise `ValueError` unless it is whole.

    Files of releases that wrote no record raise it too.
    """
    try:
        noted = json.loads(_header(content))["__metadata__"]
        place = _digest_place(content, noted[_DIGEST])
        unset = b"".join((content[:place], _UNSET.encode(), content[place + len(_UNSET) :]))
        whole = hashlib.sha256(unset).hexdigest() == noted[_DIGEST]
        record = noted[_RECORD]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"expected a file with a record: {error!r}") from error
    if not whole:
        raise ValueError("expected the file's own digest, got another")
    return replace(parse_record(record), size_bytes=len(content))


def _header(content: bytes) -> bytes:
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def _digest_place(content: bytes, digest: str) -> int:
    """Return where the digest stands; in the record, a quote would follow a backslash."""
    key = f'"{_DIGEST}":"'
    return _header(content).index(f'{key}{digest}"'.encode()) + 8 + len(key)


def arrays_bytes(arrays: AdaptedArrays, metadata: dict[str, str] | None = None) -> bytes:
    """Return arrays as the content of a safetensors file."""
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
    return safetensors.numpy.save(whole, metadata)


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


def _below(prefix: str, tensors: Arrays) -> Arrays:
    names = (name for name in tensors if name.startswith(prefix))
    return {name.removeprefix(prefix): tensors[name] for name in names}
