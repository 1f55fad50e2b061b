"""One image file on its way to the inputs of models: a unit of work for a thread or a process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kshot.bundle import THUMBNAIL, InputSpec, Levels, Survey, decode_once, draft_side, fit

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class FileJob:
    """A file, what is known of it, and the inputs to fit it to, at least one."""

    data: bytes
    survey: Survey
    specs: tuple[InputSpec, ...]
    wants_thumbnail: bool


@dataclass(frozen=True)
class FittedFile:
    """What a file became: for each input `(channels, height, width)`, and perhaps a thumbnail."""

    fitted: Sequence[Pixels]
    thumbnail: Pixels | None
    levels: Levels


def fit_file(job: FileJob, levels: Levels) -> FittedFile:
    """Decode a file once for all its inputs, and let `levels` see it; raises `ImageError`."""
    sides = [draft_side(spec) for spec in job.specs]
    pictures = decode_once(job.data, job.survey, dict.fromkeys(sides))
    fitted = [fit(pictures[side], spec) for side, spec in zip(sides, job.specs, strict=True)]
    picture = pictures[sides[0]]
    levels.see(picture)
    return FittedFile(fitted, fit(picture, THUMBNAIL) if job.wants_thumbnail else None, levels)
