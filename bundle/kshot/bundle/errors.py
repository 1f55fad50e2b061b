"""The errors of this package.

Exception
├── BundleError   a bundle, or a document in it, is invalid
└── ImageError    an image, or an array of images, cannot become a network's input
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class BundleError(Exception):
    """A bundle is missing, damaged or inconsistent; the message names the file and the field."""


@dataclass(frozen=True)
class ImageProblem:
    """The problem of one image, or of all images together (`index` None)."""

    index: int | None
    reason: str

    def __str__(self) -> str:
        return self.reason if self.index is None else f"image {self.index}: {self.reason}"


class ImageError(Exception):
    """Images are refused; `problems` has one entry per invalid image, in order."""

    def __init__(self, problems: Sequence[ImageProblem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)

    @classmethod
    def about(cls, reason: str, index: int | None = None) -> ImageError:
        """Return an error with one problem."""
        return cls([ImageProblem(index, reason)])
