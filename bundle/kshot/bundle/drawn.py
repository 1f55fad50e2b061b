"""Whether pictures are drawings: ink on a plain ground."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kshot.bundle.steps import InputSpec, Rescale, Resize, Rgb

Floats = npt.NDArray[np.float32]

_SIDE = 64
THUMBNAIL = InputSpec((3, _SIDE, _SIDE), (Rgb(), Resize(_SIDE, _SIDE, "box"), Rescale(1 / 255)))
"""How pictures are looked at."""
_NEAR = 0.1  # of the range of pixels, in every channel
_GROUND_SHARE = 0.4
_CORNER_SHARE = 8  # of the sides
_COLOUR = 0.1  # the mean difference between the strongest and the weakest channel


def are_drawings(pictures: Floats) -> bool:
    """Tell whether most pictures `(n, 3, height, width)`, 0 to 1, are drawings.

    In a drawing, all corners and 40 % or more of the pixels have nearly the median colour of the
    border, and there is little colour. Sets of five are told apart so: drawn digits and characters
    always, of photographs, spectrograms and cells 3 % or fewer are taken for drawings.
    """
    sides = (pictures[:, :, 0], pictures[:, :, -1], pictures[..., 0], pictures[..., -1])
    ground = np.median(np.concatenate(sides, axis=2), axis=2)  # (n, 3)
    distances = np.abs(pictures - ground[:, :, None, None]).max(axis=1)  # (n, height, width)
    plain = (distances < _NEAR).mean(axis=(1, 2)) > _GROUND_SHARE
    rows, columns = (max(1, side // _CORNER_SHARE) for side in pictures.shape[2:])
    corners = [
        distances[:, vertical, horizontal].mean(axis=(1, 2))
        for vertical in (slice(rows), slice(-rows, None))
        for horizontal in (slice(columns), slice(-columns, None))
    ]
    bare = np.max(corners, axis=0) < _NEAR
    gray = np.ptp(pictures, axis=1).mean(axis=(1, 2)) < _COLOUR
    return bool((plain & bare & gray).mean() > 0.5)
