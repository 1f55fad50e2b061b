"""Image files of a request, decoded one after another for all the inputs that they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kshot.bundle import (
    THUMBNAIL,
    ImageError,
    ImageLimits,
    ImageProblem,
    InputSpec,
    Levels,
    Survey,
    rescale,
    survey_image,
)
from kshot.server.call_context import current_call
from kshot.server.request.decoders import Decoders
from kshot.server.request.fitted_file import FileJob

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Surveys = Sequence[Survey | ImageError]

LOOKED_AT = 16  # pictures at most; examples of a class usually follow each other


@dataclass(frozen=True)
class DecodedImages:
    """Files by the inputs they became, `(n, channels, height, width)`.

    `thumbnails`, if wanted, are of every few files, up to 16, `(k, 3, height, width)`. `are_bits`
    tells that there were only 0 and 1, and both of them in a file.
    """

    prepared: dict[InputSpec, Floats]
    thumbnails: Floats | None
    are_bits: bool


def survey_files(items: Sequence[bytes], limits: ImageLimits) -> Surveys:
    """Return what each file claims, or what is wrong with it. Ends when the call does."""
    found: list[Survey | ImageError] = []
    for item in items:
        current_call().check()
        try:
            found.append(survey_image(item, limits))
        except ImageError as error:
            found.append(error)
    return found


def claimed_pixels(surveys: Surveys, side: int) -> int:
    """Return the pixels to decode in all files, those left out that are refused.

    `side` is that of `decode_image`.
    """
    return sum(each.pixels(side) for each in surveys if isinstance(each, Survey))


def decode_files(
    items: Sequence[bytes],
    surveys: Surveys,
    specs: Sequence[InputSpec],
    decoders: Decoders,
    *,
    wants_thumbnails: bool = False,
) -> DecodedImages:
    """Decode each file once for all inputs; raise `ImageError` with all problems.

    Ends when the call does.
    """
    specs = tuple(dict.fromkeys(specs))
    fitted: list[list[Pixels]] = [[] for _ in specs]
    small, step = list[Pixels](), -(-len(items) // LOOKED_AT)
    problems, levels = [], Levels()
    for index, (item, survey) in enumerate(zip(items, surveys, strict=True)):
        current_call().check()
        try:
            if isinstance(survey, ImageError):
                raise survey
            wants = wants_thumbnails and index % step == 0
            file = decoders.fit(FileJob(item, survey, specs, wants), levels)
        except ImageError as error:
            problems += [ImageProblem(index, problem.reason) for problem in error.problems]
            continue
        for pixels, of_spec in zip(file.fitted, fitted, strict=True):
            of_spec.append(pixels)
        if file.thumbnail is not None:
            small.append(file.thumbnail)
    if problems:
        raise ImageError(problems)
    fitted.reverse()
    prepared = {spec: rescale(np.stack(fitted.pop()), spec) for spec in specs}
    thumbnails = rescale(np.stack(small), THUMBNAIL) if small else None
    return DecodedImages(prepared, thumbnails, levels.are_bits)
