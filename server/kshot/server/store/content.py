"""The content of an adapted model's file: its arrays, and its record with a digest over all.

The file alone says what it is, so that a lost index can be made again from the files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from kshot.bundle import TAIL_MIX
from kshot.server.store.adapted_model import TAIL, AdaptedArrays, AdaptedModelRecord, Arrays
from kshot.server.store.failures import StoreFailed
from kshot.server.store.kept_support import KeptSupport, PackedImages
from kshot.server.store.sealing import Seals, unknown_key
from kshot.server.store.tables.rows import parse_record, record_text

_PARAMETERS = "parameters."
_STATISTICS = "statistics."
_SUPPORT = "support"
_REFERENCES = "references"
_SPAN = "span."
_CLASSES = "examples.classes"
_IMAGES = "examples.images"
_LEVELS = "examples.levels"
# The largest arrays: their numbers are those of float16.
_BASIS = _SPAN + "basis"
_HALVES, _MIX = _PARAMETERS + TAIL, _PARAMETERS + TAIL_MIX
_RECORD, _DIGEST = "record", "digest"
_SEALED, _KEY = "sealed", "key"
_UNSET = b"0" * 64  # stands for the digest while it is computed
_HAS_DIGEST = re.compile(rb'"digest":"(.{64})"', re.DOTALL)


@dataclass(frozen=True)
class Content:
    """The content of a file in parts, not copied together, and its digest."""

    parts: tuple[bytes | memoryview, ...]
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all parts."""
        return sum(map(len, self.parts))


def model_content(
    model: AdaptedModelRecord, arrays: AdaptedArrays, seals: Seals | None = None
) -> Content:
    """Return the content of an adapted model's file; with `seals` only they read the arrays."""
    metadata = {_RECORD: record_text(model), _DIGEST: _UNSET.decode()}
    if seals is None:
        return _digested(arrays_bytes(arrays, metadata))
    sealed = np.frombuffer(seals.seal(arrays_bytes(arrays), _about(model)), np.uint8)
    metadata[_KEY] = seals.newest
    return _digested(safetensors.numpy.save({_SEALED: sealed}, metadata))


def _digested(content: bytes, *more: memoryview) -> Content:
    """Return the content that begins like this, with its digest in the place of the unset one."""
    before, _, behind = _around_digest(content)
    digest = _digest_of((before, _UNSET, behind, *more))
    return Content((before, digest.encode(), behind, *more), digest)


def with_record(content: bytes, model: AdaptedModelRecord) -> Content:
    """Return a file's content, of any release, with another record and its digest."""
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(_header(content))
    told = header.get("__metadata__", {})
    kept = {_KEY: told[_KEY]} if _KEY in told else {}
    header["__metadata__"] = {_RECORD: record_text(model), _DIGEST: _UNSET.decode(), **kept}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _digested(len(text).to_bytes(8, "little") + text, memoryview(content)[length:])


def content_digest(content: bytes) -> str:
    """Return the digest that a file was written with, "" for one that was changed since.

    It is over the file with zeros in the place of the digest; releases that wrote none in the file
    digested all of it.
    """
    before, digest, behind = _around_digest(content)
    if not digest:
        return hashlib.sha256(content).hexdigest()
    found = _digest_of((before, _UNSET, behind))
    return found if digest == found.encode() else ""


def described(content: bytes) -> AdaptedModelRecord:
    """Return the record in a file, with the file's size; raise `ValueError` unless it is whole.

    Files of releases that wrote no record raise it too.
    """
    if not (_around_digest(content)[1] and content_digest(content)):
        raise ValueError("expected a file with its record and digest")
    try:
        record = json.loads(_header(content))["__metadata__"][_RECORD]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"expected a file with a record: {error!r}") from error
    return replace(parse_record(record), size_bytes=len(content))


def _header(content: bytes) -> bytes:
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def _around_digest(content: bytes) -> tuple[bytes, bytes, memoryview]:
    """Return what is before the digest in a file, the digest, "" if there is none, and the rest.

    In the record the key's quotes would follow backslashes.
    """
    found = _HAS_DIGEST.search(_header(content))
    start, end = (found.start(1) + 8, found.end(1) + 8) if found else (0, 0)
    return content[:start], content[start:end], memoryview(content)[end:]


def _digest_of(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def arrays_bytes(arrays: AdaptedArrays, metadata: dict[str, str] | None = None) -> bytes:
    """Return arrays as the content of a safetensors file."""
    tensors = {_PARAMETERS + name: array for name, array in arrays.parameters.items()}
    tensors |= {_STATISTICS + name: array for name, array in arrays.statistics.items()}
    tensors[_SUPPORT] = arrays.support
    if arrays.references.size:
        tensors[_REFERENCES] = arrays.references
    tensors |= {_SPAN + name: array for name, array in arrays.span.items()}
    whole: dict[str, npt.NDArray[np.generic]] = {
        name: np.asarray(array, _kept_type(name, array), order="C")
        for name, array in tensors.items()
    }
    if arrays.examples is not None:
        whole |= _example_tensors(arrays.examples)
    return safetensors.numpy.save(cast(Any, whole), metadata)


def _example_tensors(examples: KeptSupport) -> dict[str, npt.NDArray[np.generic]]:
    tensors: dict[str, npt.NDArray[np.generic]] = {_CLASSES: examples.classes}
    if (images := examples.images) is not None:
        tensors[_IMAGES] = np.asarray(images.numbers, order="C")
        if images.levels.size:
            tensors[_LEVELS] = images.levels
    return tensors


def _kept_type(name: str, array: npt.NDArray[np.float32]) -> type[np.floating[Any]]:
    """Return the type to write an array in; those of a tail lose no bit."""
    if name == _BASIS:
        return np.float16
    if not name.startswith(_HALVES) or name == _MIX:
        return np.float32
    with np.errstate(over="ignore"):
        same = np.array_equal(array.astype(np.float16).astype(np.float32), array)
    return np.float16 if same else np.float32


def key_name(content: bytes) -> str | None:
    """Return the name of the key that sealed a file, by its first bytes; None without one.

    Raises `ValueError` for a damaged header.
    """
    name = json.loads(_header(content)).get("__metadata__", {}).get(_KEY)
    return None if name is None else str(name)


def opened(content: bytes, model: AdaptedModelRecord, seals: Seals | None) -> bytes:
    """Return a file's content with its arrays readable; raise `StoreFailed` without their key."""
    name = key_name(content)
    if name is None:
        return content
    if seals is None:
        raise StoreFailed(unknown_key(name))
    sealed = safetensors.numpy.load(content)[_SEALED].tobytes()
    return seals.open(name, sealed, _about(model))


def _about(model: AdaptedModelRecord) -> bytes:
    """Return what a sealed file belongs to: it opens in no other's place."""
    return json.dumps([model.tenant, model.id, model.adaptation_digest]).encode()


def parse_arrays(content: bytes) -> AdaptedArrays:
    """Return an adapted model's file, whose digest was checked, as read-only arrays."""
    loaded = safetensors.numpy.load(content)
    examples = _examples(loaded)
    tensors = cast(dict[str, npt.NDArray[np.float32]], loaded)
    for name, array in tensors.items():
        tensors[name] = array.astype(np.float32, copy=False)
        tensors[name].flags.writeable = False
    return AdaptedArrays(
        _below(_PARAMETERS, tensors),
        _below(_STATISTICS, tensors),
        tensors[_SUPPORT],
        tensors.get(_REFERENCES, np.empty(0, np.float32)),
        _below(_SPAN, tensors),
        examples,
    )


def _examples(tensors: dict[str, npt.NDArray[Any]]) -> KeptSupport | None:
    """Take the examples out of the tensors of a file, if they are kept."""
    classes, images, levels = (tensors.pop(name, None) for name in (_CLASSES, _IMAGES, _LEVELS))
    if classes is None:
        return None
    packed = None
    if images is not None:
        packed = PackedImages(images) if levels is None else PackedImages(images, levels)
    return KeptSupport(classes, packed)


def _below(prefix: str, tensors: Arrays) -> Arrays:
    names = (name for name in tensors if name.startswith(prefix))
    return {name.removeprefix(prefix): tensors[name] for name in names}
