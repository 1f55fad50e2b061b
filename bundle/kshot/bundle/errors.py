"""The errors of this package.

Exception
├── BundleError   a bundle, or a document in it, does not say what it must
└── ImageError    an image, or an array of images, cannot become a network's input
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class BundleError(Exception):
    """A bundle is missing, damaged or contradicts itself; the sentence names file and field."""


@dataclass(frozen=True)
class ImageProblem:
    """What is wrong with one image, or with all of them together (`index` None)."""

    index: int | None
    reason: str

    def __str__(self) -> str:
        return self.reason if self.index is None else f"image {self.index}: {self.reason}"


class ImageError(Exception):
    """Images are refused; `problems` holds one entry per image that is wrong, in order."""

    def __init__(self, problems: Sequence[ImageProblem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)

    @classmethod
    def about(cls, reason: str, index: int | None = None) -> ImageError:
        """Make the error that has one problem."""
        return cls([ImageProblem(index, reason)])
