"""The features of a set of pictures, encoded once and kept in the cache."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from kshot.bundle import Bundle, InputSpec, cache_folder, prepare, replacing
from kshot.trainer.errors import DataError
from kshot.trainer.output.progress import Progress
from studies.pictures.sets import PictureSet

Features = npt.NDArray[np.float32]
IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class FeatureEncoder:
    """A frozen encoder: the `content` of its ONNX file, and the input that it takes."""

    content: bytes = field(repr=False)
    spec: InputSpec

    @staticmethod
    def of_bundle(bundle: Bundle) -> "FeatureEncoder":
        """Read a bundle's encoder; raises `DataError` when it has none."""
        if bundle.encoder_path is None:
            raise DataError(f"{bundle.manifest.name}: expected a bundle with an encoder")
        return FeatureEncoder(bundle.encoder_path.read_bytes(), bundle.manifest.input)

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 over encoder and input."""
        return hashlib.sha256(self.content + repr(self.spec).encode()).hexdigest()

    def of_set(self, pictures: PictureSet, *, mapped: bool = False) -> Features:
        """Return the features `(n, features)` of all pictures, float32, from the cache if there.

        `mapped` ones stay on the disk until they are read.
        """
        key = hashlib.sha256(f"{self.digest} {pictures.digest}".encode()).hexdigest()[:32]
        path = cache_folder() / f"features-{key}.npy"
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with Progress("encoding", "pictures") as progress, replacing(path) as file:
                np.save(file, self.encode(pictures.pictures, progress))
        found: Features = np.load(path, mmap_mode="r" if mapped else None)
        return found

    def encode(self, pictures: Sequence[bytes], progress: Progress | None = None) -> Features:
        """Encode pictures in this order: `(n, features)`."""
        parts = []
        for first in range(0, len(pictures), IMAGES_AT_ONCE):
            images = prepare(pictures[first : first + IMAGES_AT_ONCE], self.spec)
            (encoded,) = self._session.run(["encoded"], {"images": images})
            parts.append(encoded.reshape(len(images), -1))
            if progress is not None:
                progress.update(first + len(images), len(pictures))
        return np.concatenate(parts)

    @cached_property
    def _session(self) -> Any:  # noqa: ANN401 -- ONNX Runtime's
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(
            self.content, options, providers=["CPUExecutionProvider"]
        )
