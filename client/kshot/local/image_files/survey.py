"""What is known of an encoded image before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

Span = tuple[int, int]

MAX_PARTS = 2**14
"""The most chunks or segments of a file. A PNG of 32 MiB in chunks of 8 KiB has 4,096."""

_SCALES = (8, 4, 2, 1)


class ImageFileError(Exception):
    """A file cannot be read as an image; the message is what is said of it: `is damaged: …`."""


@dataclass(frozen=True)
class Survey:
    """What the structure of a file tells; reading it takes time linear in the file's size.

    `seconds` is about what decoding takes at worst. `scales` tells of a JPEG, which may be decoded
    smaller, `whole` of one that is held whole all the same, and `unsure` of one whose last scan
    may have been cut. `kept` has the parts of the file that decide about pixels; a PNG may have too
    many to list.
    """

    kind: str
    width: int
    height: int
    seconds: float
    kept: tuple[Span, ...] = ()
    orientation: int = 1
    scales: bool = False
    whole: bool = False
    unsure: bool = False

    def pixels(self, side: int) -> int:
        """Return the pixels that decoding holds if the shorter side may come down to `side`."""
        if not (side and self.scales) or self.whole:
            return self.width * self.height
        least = min(self.width // side, self.height // side)
        scale = next((each for each in _SCALES if each <= least), 1)
        return -(-self.width // scale) * -(-self.height // scale)


def refuse(reason: str) -> NoReturn:
    """Raise `ImageFileError`."""
    raise ImageFileError(reason)


def damaged(what: str) -> NoReturn:
    """Raise `ImageFileError` for a file that does not keep to its format."""
    refuse(f"is damaged: {what}; save or send it again")


def too_many(what: str, most: int) -> NoReturn:
    """Raise `ImageFileError` for a file in too many parts."""
    refuse(f"has more {what} than {most}; expected at most that many; save it again")
