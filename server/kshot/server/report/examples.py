"""Examples of a support set that may do harm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from kshot.server.report.known import strengths

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_RASTER = 16  # pictures are compared on a raster of 16 x 16 cells
_SAME = 0.02  # root mean square difference, as a share of the support set's contrast
_OTHER, _OWN = 0.8, 0.1  # left-out probabilities of another class and of the example's own
_FAR = 3.5  # robust standard deviations below the median
_LEAST_TO_COMPARE = 8


class Flaw(StrEnum):
    """What may be wrong with an example."""

    BLANK = "blank"
    DUPLICATE = "duplicate"
    NEAR_IDENTICAL = "near_identical"
    MISLABELLED = "mislabelled"
    FAR = "far"


@dataclass(frozen=True)
class ExampleNote:
    """An example by its index, its flaw, and another example or class that it concerns."""

    index: int
    flaw: Flaw
    other_index: int | None = None
    other_class: int | None = None


def note_pictures(images: Floats, classes: Integers) -> Iterator[ExampleNote]:
    """Note blank pictures, and the same picture in two classes or twice in one.

    `images` are prepared, `(n, channels, height, width)`.
    """
    rasters = _rasters(images)
    spread = rasters.std(axis=1)
    contrast = float(np.median(spread))
    blank = spread < 1e-3 * max(contrast, 1e-6)
    yield from (ExampleNote(index, Flaw.BLANK) for index in np.flatnonzero(blank).tolist())
    squares = (rasters**2).sum(axis=1)
    for index in range(1, len(rasters)):
        if blank[index]:
            continue
        distances = squares[:index] + squares[index] - 2 * rasters[:index] @ rasters[index]
        alike = np.sqrt(np.maximum(distances, 0) / rasters.shape[1]) < _SAME * contrast
        found = np.flatnonzero(alike & ~blank[:index])
        if len(found):
            across = found[classes[found] != classes[index]]
            other = int(across[0] if len(across) else found[0])
            flaw = Flaw.DUPLICATE if len(across) else Flaw.NEAR_IDENTICAL
            yield ExampleNote(index, flaw, other, int(classes[other]))


def note_answers(held_out_logits: Floats, classes: Integers) -> Iterator[ExampleNote]:
    """Note examples that the others take for another class, or that are far from all.

    `held_out_logits` are `(n, way)`; classes with one example take no part.
    """
    counts = np.bincount(classes, minlength=held_out_logits.shape[1])
    told = np.flatnonzero(counts[classes] > 1)
    if not len(told):
        return
    logits = held_out_logits[told].astype(np.float64)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    own = probabilities[np.arange(len(told)), classes[told]]
    best = probabilities.argmax(axis=1)
    mislabelled = (own < _OWN) & (probabilities.max(axis=1) > _OTHER)
    for row in np.flatnonzero(mislabelled):
        yield ExampleNote(int(told[row]), Flaw.MISLABELLED, other_class=int(best[row]))
    if len(told) < _LEAST_TO_COMPARE:
        return
    strongest = strengths(held_out_logits[told])
    middle = np.median(strongest)
    deviation = 1.4826 * np.median(np.abs(strongest - middle))
    far = strongest < middle - _FAR * max(deviation, 1e-6)
    for row in np.flatnonzero(far & ~mislabelled):
        yield ExampleNote(int(told[row]), Flaw.FAR, other_class=int(classes[told[row]]))


def _rasters(images: Floats) -> Floats:
    """Average pictures over a raster: `(n, channels * cells)`, centred over all pictures."""
    count, _, height, width = images.shape
    rows, columns = (
        [part[0] for part in np.array_split(np.arange(side), min(side, _RASTER))]
        for side in (height, width)
    )
    sums = np.add.reduceat(np.add.reduceat(images, rows, axis=2), columns, axis=3)
    heights, widths = np.diff([*rows, height]), np.diff([*columns, width])
    cells = sums / (heights[:, None] * widths)
    return np.asarray(cells.reshape(count, -1) - cells.mean(), np.float32)
