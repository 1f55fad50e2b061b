"""The examples of an adapted model, kept so that they can be adapted to again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kshot.bundle import InputSpec, value_table

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.uint8] | Floats
Integers = npt.NDArray[np.int32]

_NO_LEVELS = np.empty((0, 256), np.float32)


@dataclass(frozen=True)
class PackedImages:
    """Prepared images `(n, channels, height, width)`, without loss in as few bytes as possible.

    Pixels are uint8, and `levels` `(1 or channels, 256)` are the numbers that they stand for.
    Without levels, `numbers` are the float32 values themselves.
    """

    numbers: Numbers
    levels: Floats = field(default_factory=lambda: _NO_LEVELS)

    @classmethod
    def of(cls, images: Floats, spec: InputSpec) -> PackedImages:
        """Pack prepared images of an input; blocks. The result shares no memory with them."""
        if not spec.preprocessing:
            return cls(images.copy())
        levels = value_table(spec)
        pixels = np.empty(images.shape, np.uint8)
        for image, packed in zip(images, pixels, strict=True):  # one by one: they fit the cache
            if not _pack(image, levels, packed):
                return cls(images.copy())
        return cls(pixels, levels)

    def unpacked(self) -> Floats:
        """Return the images as they were, bit for bit; blocks."""
        if self.numbers.dtype != np.uint8:
            return np.ascontiguousarray(self.numbers, np.float32)
        images = np.empty(self.numbers.shape, np.float32)
        self.write(range(len(images)), images)
        return images

    def write(self, rows: Sequence[int], into: Floats) -> None:
        """Write images as they were, those of `rows` in turn, into as many; blocks."""
        for row, image in zip(rows, into, strict=True):
            if self.numbers.dtype != np.uint8:
                image[...] = self.numbers[row]
                continue
            for channel, pixels in enumerate(self.numbers[row]):
                image[channel] = self.levels[channel % len(self.levels)][pixels]

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the images."""
        return self.numbers.nbytes


# Images of examples and their classes.
KeptImages: TypeAlias = tuple[PackedImages, tuple[int, ...]]


@dataclass(frozen=True)
class KeptSupport:
    """The classes `(n,)` of an adapted model's examples, and their images.

    `images` is None where `AdaptedArrays.support` has them.
    """

    classes: Integers
    images: PackedImages | None = None


def _pack(image: Floats, levels: Floats, packed: npt.NDArray[np.uint8]) -> bool:
    """Write an image as pixels; return whether they stand for exactly its numbers."""
    for channel, (numbers, into) in enumerate(zip(image, packed, strict=True)):
        row = levels[channel % len(levels)]
        first, last = float(row[0]), float(row[-1])
        places = (numbers - np.float32(first)) * np.float32(255 / (last - first))
        np.copyto(into, np.clip(np.rint(places), 0, 255), casting="unsafe")
        if not np.array_equal(row[into].view(np.int32), numbers.view(np.int32)):
            return False
    return True
