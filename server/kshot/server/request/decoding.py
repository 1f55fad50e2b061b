"""Image files of a request, decoded one after another for all the inputs that they become."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
    count_pixels,
    decode_once,
    draft_side,
    fit,
    rescale,
)
from kshot.server.call_context import current_call

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

LOOKED_AT = 16  # pictures at most; examples of a class usually follow each other

_LARGE_PIXELS = 2**24
_LARGE_IMAGES = threading.Lock()
_PATIENCE_SECONDS = 0.1


@dataclass(frozen=True)
class DecodedImages:
    """Files by the inputs they became, `(n, channels, height, width)`.

    `thumbnails`, if wanted, are of every few files, up to 16, `(k, 3, height, width)`. `are_bits`
    tells that there were only 0 and 1, and both of them in a file.
    """

    prepared: dict[InputSpec, Floats]
    thumbnails: Floats | None
    are_bits: bool


def claimed_pixels(items: Sequence[bytes], limits: ImageLimits, side: int) -> list[int]:
    """Return the pixels to decode of each file, by its header; 0 where decoding will fail.

    `side` is that of `decode_image`. Ends when the call does.
    """
    counts = [0] * len(items)
    for index, item in enumerate(items):
        current_call().check()
        with suppress(ImageError):
            counts[index] = count_pixels(item, limits, side)
    return counts


def decode_files(
    items: Sequence[bytes],
    claimed: Sequence[int],
    limits: ImageLimits,
    specs: Sequence[InputSpec],
    *,
    wants_thumbnails: bool = False,
) -> DecodedImages:
    """Decode each file once for all inputs; raise `ImageError` with all problems.

    `claimed` has the most pixels of each file. Ends when the call does.
    """
    sides = {draft_side(spec) for spec in specs}
    fitted: dict[InputSpec, list[Pixels]] = {spec: [] for spec in specs}
    small, step = list[Pixels](), -(-len(items) // LOOKED_AT)
    problems, levels = [], Levels()
    for index, item in enumerate(items):
        current_call().check()
        try:
            with _turn(claimed[index]):
                pictures = decode_once(item, limits, sides)
                for spec, pixels in fitted.items():
                    pixels.append(fit(pictures[draft_side(spec)], spec))
                picture = pictures[draft_side(specs[0])]
                levels.see(picture)
                if wants_thumbnails and index % step == 0:
                    small.append(fit(picture, THUMBNAIL))
        except ImageError as error:
            problems += [ImageProblem(index, problem.reason) for problem in error.problems]
    if problems:
        raise ImageError(problems)
    prepared = {spec: rescale(np.stack(fitted.pop(spec)), spec) for spec in specs}
    thumbnails = rescale(np.stack(small), THUMBNAIL) if small else None
    return DecodedImages(prepared, thumbnails, levels.are_bits)


@contextmanager
def _turn(pixel_count: int) -> Iterator[None]:
    """Hold what a large image needs: one of them is decoded at a time, in all calls.

    So many senders of the largest images do not fill the memory; raises what `Call.check` does.
    """
    if pixel_count <= _LARGE_PIXELS:
        yield
        return
    while not _LARGE_IMAGES.acquire(timeout=_PATIENCE_SECONDS):
        current_call().check()
    try:
        yield
    finally:
        _LARGE_IMAGES.release()
