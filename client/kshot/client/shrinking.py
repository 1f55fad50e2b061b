"""Makes photographs smaller that have more pixels than a model can use, before they are sent."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, cast

import numpy as np
import numpy.typing as npt

from kshot.client.errors import InputError
from kshot.local.image_files.opening import plain_file, survey_file
from kshot.local.image_files.png import check_rows
from kshot.local.image_formats import HEAD_BYTES, format_of, read_format

if TYPE_CHECKING:
    from PIL import Image

    Picture = Image.Image

# Pillow is imported when a picture is read: most programs send arrays.

SMALLEST_SIDE = 512
"""No model asks for a shorter side below this, so smaller images need no question to a server."""

_ORIENTATION = 0x0112
_JPEG_QUALITY = 92
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")


def is_picture(item: object) -> TypeGuard[Picture]:
    """Tell whether an object is an image of Pillow; a program that has one has imported it."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(item, module.Image)


def any_large(images: npt.NDArray[np.generic] | Sequence[object]) -> bool:
    """Tell whether any uint8 array, picture or file has a shorter side above `SMALLEST_SIDE`."""
    if isinstance(images, np.ndarray):
        is_pixels = images.dtype == np.uint8 and images.ndim in (3, 4)
        return is_pixels and min(images.shape[1:3]) > SMALLEST_SIDE
    return any(_shorter_side(item) > SMALLEST_SIDE for item in images)


def shrink_arrays(images: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Reduce uint8 `(n, height, width[, channels])` by area to a shorter side of `side`."""
    if min(images.shape[1:3]) <= side:
        return images
    from PIL import Image

    flat = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
    shrunk = [_reduced(Image.fromarray(np.ascontiguousarray(image)), side) for image in flat]
    return np.stack([np.asarray(image) for image in shrunk])


def shrink_file(content: bytes, side: int) -> bytes:
    """Return an image file, smaller if its shorter side is above `side`.

    What is not a whole image stays as it is: the server says what is wrong with it. So do 16-bit
    images and those with a transparent colour, which is exact.
    """
    from PIL import Image

    try:
        found = survey_file(content)
        if min(found.width, found.height) <= side or found.unsure:
            return content
        file = plain_file(content, found)
        if file.png is not None:
            check_rows(file.png)
        with _quiet(), Image.open(io.BytesIO(file.data), formats=(file.kind,)) as image:
            if image.mode not in _MODES or (file.png and file.png.clear):
                return content
            image.draft(None, (side, side))  # ours: a caller's picture would change in place
            image.getexif()[_ORIENTATION] = found.orientation
            return encode_picture(image, side)
    except Exception:  # Pillow's decoders raise nearly any exception on damaged data.
        return content


def encode_picture(picture: Picture, side: int = 0) -> bytes:
    """Write a picture as a file, upright; a `side` above 0 bounds its shorter side.

    What was read from a JPEG becomes one again, all else a PNG. Those of 16 bits keep their size.
    Raises `InputError` for numbers that are no levels from 0 to 255 or to 65,535.
    """
    from PIL import ImageOps

    _check_levels(picture)
    kind = "JPEG" if picture.format in ("JPEG", "MPO") else "PNG"
    upright = ImageOps.exif_transpose(picture)
    if side and min(upright.size) > side and upright.mode in _MODES:
        upright = _reduced(_continuous(upright), side)
    stream = io.BytesIO()
    if kind == "JPEG":
        upright.convert("L" if upright.mode == "L" else "RGB").save(
            stream, kind, quality=_JPEG_QUALITY
        )
    else:
        if upright.mode == "I":  # of a file with 16 bits
            upright = upright.convert("I;16")
        elif upright.mode not in _PNG_MODES:
            upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
        upright.save(stream, kind)
    return stream.getvalue()


def _check_levels(picture: Picture) -> None:
    """Refuse wide modes whose values are not those of 16 bits: nobody can tell which is white."""
    mode = picture.mode
    if mode not in ("I", "F") and not mode.startswith("I;16"):
        return
    least, most = cast("tuple[float, float]", picture.getextrema())
    if mode != "F" and least >= 0 and 255 < most < 2**16:
        return
    if mode != "F" and picture.format and least >= 0 and most < 2**16:
        return  # a file of 16 bits that is dark
    raise InputError(
        f"expected levels from 0 to 255, got mode {mode} with values from {least:g} to {most:g}; "
        "scale them, then PIL.Image.fromarray(levels.astype(numpy.uint8))"
    )


def _continuous(picture: Picture) -> Picture:
    """Return a mode whose neighbouring pixels can be averaged."""
    if picture.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in picture.info:
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _reduced(picture: Picture, side: int) -> Picture:
    from PIL import Image

    scale = side / min(picture.size)
    width, height = (max(side, round(scale * length)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BOX)


@contextmanager
def _quiet() -> Iterator[None]:
    """Say nothing of photographs above 90 megapixels: they are the caller's own."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _shorter_side(item: object) -> int:
    """Return the shorter side in pixels by the header alone, 0 where it cannot be read."""
    if isinstance(item, np.ndarray):
        return min(item.shape[:2]) if item.dtype == np.uint8 and item.ndim in (2, 3) else 0
    if is_picture(item):
        return min(item.size)
    from PIL import Image

    if isinstance(item, bytes | bytearray | memoryview):
        item = io.BytesIO(item)
    try:
        with _quiet(), Image.open(cast(str, item)) as image:
            return min(image.size)
    except Exception:  # the call itself says what is wrong with it
        return SMALLEST_SIDE + 1 if _is_photograph_of_a_phone(item) else 0


def _is_photograph_of_a_phone(item: object) -> bool:
    """Tell whether bytes or a file are HEIC, which another package reads (`kshot.client.heic`)."""
    try:
        if isinstance(item, io.BytesIO):
            return format_of(item.getvalue()[:HEAD_BYTES]) == "HEIC"
        return read_format(Path(cast(str, item))) == "HEIC"
    except (OSError, TypeError, ValueError):
        return False
