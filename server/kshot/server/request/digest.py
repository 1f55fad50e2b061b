"""Digests: of an adapted model's parameters, and of everything it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from kshot.bundle import Manifest, manifest_document


def weights_digest(parameters: Mapping[str, npt.NDArray[np.float32]]) -> str:
    """Return the SHA-256 (hex) of the parameters: name, shape and little-endian float32 bytes.

    The order of the mapping does not matter: names are sorted.
    """
    return _digest(
        part for name in sorted(parameters) for part in (name.encode(), *_array(parameters[name]))
    )


def begin_adaptation_digest(
    bundle_digest: str, support: npt.NDArray[np.float32]
) -> Callable[[Sequence[int], Sequence[str], Mapping[str, object]], str]:
    """Begin the SHA-256 (hex) of everything that an adapted model is made from.

    `support` is prepared, `(support_count, channels, height, width)`. The function that is returned
    takes the rest, class indices and names and the resolved options with the seed, JSON-able. It
    does not hold the support set.
    """
    begun = _hashed((bundle_digest.encode(), *_array(support)))

    def finish(
        class_indices: Sequence[int], class_names: Sequence[str], options: Mapping[str, object]
    ) -> str:
        rest = (
            np.asarray(class_indices, dtype="<u4").tobytes(),
            json.dumps(list(class_names)).encode(),
            json.dumps(options, sort_keys=True, separators=(",", ":"), allow_nan=False).encode(),
        )
        return _hashed(rest, begun.copy()).hexdigest()

    return finish


def support_digest(support: npt.NDArray[np.float32], class_indices: Sequence[int]) -> str:
    """Return the SHA-256 (hex) of a prepared support set and the classes of its examples."""
    return _digest((*_array(support), np.asarray(class_indices, dtype="<u4").tobytes()))


def input_digest(manifest: Manifest) -> str:
    """Return the SHA-256 (hex) of what a bundle makes of pictures: their shape and preparation."""
    document = json.dumps(manifest_document(manifest)["input"], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


def _array(array: npt.NDArray[np.float32]) -> tuple[bytes, bytes]:
    shape = np.asarray(array.shape, dtype="<u8").tobytes()
    return shape, np.asarray(array, dtype="<f4", order="C").tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    return _hashed(parts).hexdigest()


def _hashed(parts: Iterable[bytes], digest: hashlib._Hash | None = None) -> hashlib._Hash:
    """Hash parts with their lengths, so that different lists of parts differ as bytes."""
    digest = digest or hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest
