"""A whole data set in memory: unsigned bytes, sorted by class, addressed by index."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from kshot.trainer.errors import DataError

ROTATIONS_DEGREES = (0, 90, 180, 270)


@dataclass(frozen=True)
class ImageDataset:
    """Images of one shape, those of a class side by side.

    `images` is uint8 `(image_count, channels, height, width)` on the CPU; class `c` owns the
    rows `class_offsets[c]` to `class_offsets[c + 1]` (int64, `(class_count + 1,)`).
    `digest` is the SHA-256 over shape, pixels, offsets and class names; `split_digest` names
    the split that the classes are a part of, by `names_digest` over the classes of all parts.
    """

    name: str
    images: torch.Tensor
    class_offsets: torch.Tensor
    class_names: tuple[str, ...]
    digest: str
    split_digest: str

    @property
    def class_count(self) -> int:
        """Count the classes."""
        return len(self.class_names)

    @property
    def image_count(self) -> int:
        """Count the images of all classes."""
        return int(self.images.shape[0])


def make_dataset(
    name: str,
    images: torch.Tensor,
    class_offsets: torch.Tensor,
    class_names: tuple[str, ...],
    split_digest: str | None = None,
) -> ImageDataset:
    """Return a data set with its digest; without a `split_digest` its classes are all there are."""
    images, class_offsets = images.contiguous(), class_offsets.to(torch.int64)
    digest = _digest(images, class_offsets, class_names)
    split_digest = split_digest or names_digest(class_names)
    return ImageDataset(name, images, class_offsets, class_names, digest, split_digest)


def offsets_of(counts: npt.ArrayLike) -> torch.Tensor:
    """Return where each class begins, and where the last ends, from the images of each class."""
    return torch.from_numpy(np.cumsum([0, *np.asarray(counts)], dtype=np.int64))


def names_digest(names: Iterable[str]) -> str:
    """Return the SHA-256 over names, one a line, in the given order."""
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def with_rotations(dataset: ImageDataset) -> ImageDataset:
    """Add every class rotated counter-clockwise by 90, 180 and 270 degrees as classes of their own.

    The rotations of a class follow it: names gain `@0`, `@90`, `@180`, `@270`.
    Raises DataError when the images are not square.
    """
    height, width = dataset.images.shape[2:]
    if height != width:
        raise DataError(
            f"images of {dataset.name}: expected square ones to rotate, got {height}x{width}"
        )
    turned = [torch.rot90(dataset.images, turn, dims=(2, 3)) for turn in range(4)]
    spans = pairwise(dataset.class_offsets.tolist())
    pieces = [images[start:end] for start, end in spans for images in turned]
    class_offsets = offsets_of(dataset.class_offsets.diff().repeat_interleave(4))
    class_names = tuple(
        f"{name}@{degrees}" for name in dataset.class_names for degrees in ROTATIONS_DEGREES
    )
    return make_dataset(
        dataset.name, torch.cat(pieces), class_offsets, class_names, dataset.split_digest
    )


def mirrored(dataset: ImageDataset, name: str) -> ImageDataset:
    """Turn every image over, left to right, as a data set of that name; classes gain `@mirrored`.

    The mirror image of a drawn sign without an axis of symmetry is none of its rotations.
    """
    images, names = dataset.images.flip(3), tuple(f"{one}@mirrored" for one in dataset.class_names)
    return make_dataset(name, images, dataset.class_offsets, names, dataset.split_digest)


def _digest(images: torch.Tensor, class_offsets: torch.Tensor, class_names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    digest.update(repr(tuple(images.shape)).encode())
    digest.update(images.numpy().data)
    digest.update(class_offsets.numpy().astype("<i8").tobytes())
    for name in class_names:
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
