"""From images of any size to a network's input, by the manifest's steps."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from kshot.bundle.errors import ImageError, ImageProblem
from kshot.bundle.images import (
    ONLY_ZERO_AND_ONE,
    ImageLimits,
    Levels,
    decode_image,
    over_white,
)
from kshot.bundle.ink import MAX_SIDE, have_light_ground, strengthened
from kshot.bundle.pictures import apply_step
from kshot.bundle.steps import (
    Ink,
    InputSpec,
    Normalize,
    Polarity,
    Reduce,
    Rescale,
    Square,
    resize_of,
)

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

Between = Callable[[], None]

_USEFUL_SIDES = 3
_RANGE_SLACK = 0.05
_LEAST_USEFUL_SIDE = 512
_MUCH = 0.5
# Numbers of the pictures that are resized in one.
_TOGETHER = 2**20
# Fewer pictures than this take less time one by one.
_FEW = 3
# Of pictures with fewer numbers, Python takes longer than Pillow: threads would only wait for it.
_SMALL, _SMALL_WITH_INK = 2**12, 2**16
_ONE_AT_A_TIME = threading.Lock()

_METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def _nothing() -> None:
    pass


def prepare(
    images: Sequence[bytes] | npt.NDArray[np.generic],
    spec: InputSpec,
    limits: ImageLimits | None = None,
    between: Between = _nothing,
) -> Floats:
    """Return a network's input `(n, channels, height, width)`.

    Encoded images and uint8 arrays go through the steps of `spec`; a float32 array counts
    as prepared. A `spec` without steps takes vectors, float32 `(n, features)`. Raises `ImageError`
    with a problem for each invalid image, and what `between` does, which is called between images.
    """
    if isinstance(images, np.ndarray) and images.dtype == np.float32:
        return _prepared(cast(Floats, images), spec)
    return rescale(pixels(images, spec, limits, between), spec)


def pixels(
    images: Sequence[bytes] | npt.NDArray[np.generic],
    spec: InputSpec,
    limits: ImageLimits | None = None,
    between: Between = _nothing,
) -> Pixels:
    """Return uint8 `(n, channels, height, width)`: all steps of `spec` except the last.

    `images` are encoded (PNG, JPEG, WebP) or uint8 `(n, height, width[, 1 | 3 | 4])` of any
    height and width. Raises `ImageError` with a problem for each invalid image.
    """
    if not spec.preprocessing:
        raise ImageError.about(f"expected float32 vectors (n, {spec.shape[0]}), got images")
    if isinstance(images, np.ndarray):
        _check_array(images)
        return fit_array(cast(Pixels, images), spec, between)
    if len(images) == 0:
        raise ImageError.about("expected at least 1 image, got 0")
    fitted: list[Pixels] = []
    problems: list[ImageProblem] = []
    levels = Levels()
    for index, data in enumerate(images):
        between()
        try:
            picture = decode_image(data, limits, draft_side(spec))
        except ImageError as error:
            problems += [ImageProblem(index, problem.reason) for problem in error.problems]
            continue
        levels.see(picture)
        fitted.append(fit(picture, spec))
    if problems:
        raise ImageError(problems)
    levels.check()
    return np.stack(fitted)


def fit(picture: Image.Image, spec: InputSpec) -> Pixels:
    """Apply all steps but the last to a picture in mode L or RGB: `(channels, height, width)`."""
    channels, resize = spec.shape[0], resize_of(spec)
    picture = picture.convert("L" if channels == 1 else "RGB")
    for step in spec.preprocessing:
        picture = apply_step(picture, step, resize)
    picture = picture.resize((resize.width, resize.height), _METHODS[resize.method])
    if any(isinstance(step, Ink) for step in spec.preprocessing):
        picture = strengthened(picture)
    fitted = np.asarray(picture)
    return fitted[None] if channels == 1 else fitted.transpose(2, 0, 1)


def fit_array(images: Pixels, spec: InputSpec, between: Between = _nothing) -> Pixels:
    """Apply all steps but the last to pictures `(n, height, width[, 1 | 3 | 4])`, unchecked."""
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    fitted: list[Pixels] = []
    if len(images) == 0:
        return np.zeros((0, *spec.shape), np.uint8)
    if _goes_together(images, spec):
        most = max(math.prod(images.shape[1:]), math.prod(spec.shape))
        step = max(1, _TOGETHER // most)
        for start in range(0, len(images), step):
            between()
            fitted.append(_fit_together(images[start : start + step], spec))
        return np.concatenate(fitted)
    has_ink = any(isinstance(step, Ink) for step in spec.preprocessing)
    small = _SMALL_WITH_INK if has_ink else _SMALL
    for image in images:
        between()
        with _ONE_AT_A_TIME if image.size < small else nullcontext():
            fitted.append(fit(_picture(image), spec))
    return np.stack(fitted)


def _goes_together(images: Pixels, spec: InputSpec) -> bool:
    """Tell whether `_fit_together` takes these pictures, and in less time than `fit`."""
    gray = images.ndim == 3 and spec.shape[0] == 1
    if not gray and not (images.ndim == 4 and images.shape[3] == spec.shape[0] == 3):
        return False
    height, width = images.shape[1:3]
    resize = resize_of(spec)
    if len(images) < _FEW and (height, width) != (resize.height, resize.width):
        return False
    for step in spec.preprocessing:
        match step:
            case Ink() | Square():
                return False
            case Polarity() if not gray:
                return False
            case Reduce() if height > step.height or width > step.width:
                if height > step.height and width > step.width:
                    return False
                height, width = min(height, step.height), min(width, step.width)
    one_side = height == resize.height or width == resize.width
    return one_side or resize.method == "nearest"


def _fit_together(images: Pixels, spec: InputSpec) -> Pixels:
    """Do what `fit` does to each of some pictures, all in one.

    A request may bring a thousand: one by one they would keep all other threads from Python. No
    step looks at what is on a picture, and none but a nearest-neighbour resize changes both sides:
    Pillow rounds between them, in an order of its own.
    """
    resize = resize_of(spec)
    for step in spec.preprocessing:
        match step:
            case Polarity(ground=ground):
                turned = have_light_ground(images) != (ground == "light")
                images = np.where(turned[:, None, None], 255 - images, images)
            case Reduce(height=height, width=width):
                height, width = min(height, images.shape[1]), min(width, images.shape[2])
                images = _resized(images, height, width, Image.Resampling.BOX)
            case _:
                pass
    images = _resized(images, resize.height, resize.width, _METHODS[resize.method])
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _resized(images: Pixels, height: int, width: int, method: Image.Resampling) -> Pixels:
    """Resize pictures `(n, height, width[, 3])`: stacked for the width, in a row for the height."""
    count, old_height, old_width, *colours = images.shape
    if width != old_width:
        rows = Image.fromarray(images.reshape(count * old_height, old_width, *colours))
        resized = rows.resize((width, count * old_height), method)
        images = np.asarray(resized).reshape(count, old_height, width, *colours)
    if height != old_height:
        side_by_side = np.ascontiguousarray(images.swapaxes(0, 1))
        columns = Image.fromarray(side_by_side.reshape(old_height, count * width, *colours))
        resized = columns.resize((count * width, height), method)
        images = np.asarray(resized).reshape(height, count, width, *colours).swapaxes(0, 1)
    return images


def rescale(pixels: Pixels, spec: InputSpec) -> Floats:
    """Return float32 of the same shape: the last step of `spec`, each pixel rounded once."""
    table = value_table(spec)
    if len(table) == 1:
        return cast(Floats, table[0].take(pixels))
    rescaled = np.empty(pixels.shape, np.float32)
    for at, values in enumerate(table):
        values.take(pixels[:, at], out=rescaled[:, at], mode="clip")  # which needs no buffer
    return rescaled


def value_table(spec: InputSpec) -> Floats:
    """Return the numbers that pixels 0..255 become: float32 `(channels, 256)`.

    A rescale is the same for all channels, and has one row.
    """
    step = spec.preprocessing[-1]
    if isinstance(step, Normalize):
        mean, std = np.array([step.mean, step.std])[..., None]
        return cast(Floats, ((np.arange(256) - mean) / std).astype(np.float32))
    return (np.arange(256) * cast(Rescale, step).factor).astype(np.float32)[None]


def useful_side(spec: InputSpec) -> int:
    """Return the shorter side, in pixels, to which a larger image may be reduced by area first.

    It is a few times the input's. Returns 0 where every pixel may count: with a nearest-neighbour
    resize of the whole picture, and for vectors.
    """
    if not spec.preprocessing:
        return 0
    ink = any(isinstance(step, Ink) for step in spec.preprocessing)
    reductions = [step for step in spec.preprocessing if isinstance(step, Reduce)]
    resize = resize_of(spec)
    if resize.method == "nearest" and not (ink or reductions):
        return 0
    sides = [resize.height, resize.width]
    sides += [side for step in reductions for side in (step.height, step.width)]
    return max(2 * MAX_SIDE if ink else _LEAST_USEFUL_SIDE, _USEFUL_SIDES * max(sides))


def draft_side(spec: InputSpec) -> int:
    """Return the side for `decode_image`: 0, unless a step of version 2 of the schema is named.

    Inputs of version 1 stay what they were, bit for bit.
    """
    is_new = any(
        isinstance(step, Polarity | Ink | Square | Reduce | Normalize)
        for step in spec.preprocessing
    )
    return useful_side(spec) if is_new else 0


def _prepared(images: Floats, spec: InputSpec) -> Floats:
    if not spec.preprocessing and images.shape[1:] == spec.shape[:1]:
        images = images.reshape(-1, *spec.shape)
    if images.shape[1:] != spec.shape or images.ndim != 4:
        sides = spec.shape if spec.preprocessing else spec.shape[:1]
        expected = ", ".join(map(str, ("n", *sides)))
        raise ImageError.about(f"expected float32 shape ({expected}), got {images.shape}")
    if len(images) == 0:
        raise ImageError.about("expected at least 1 image, got 0")
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        raise ImageError(
            [
                ImageProblem(int(index), "has values that are not finite")
                for index in np.flatnonzero(~finite)
            ]
        )
    if spec.preprocessing:
        _check_range(images, spec)
    return images


def _check_range(images: Floats, spec: InputSpec) -> None:
    """Refuse prepared values that no pixel becomes; resampling may pass the ends a little."""
    table = value_table(spec)
    least, greatest = table.min(axis=1), table.max(axis=1)  # (1 or channels,)
    slack = _RANGE_SLACK * (greatest - least)
    lows, highs = images.min(axis=(2, 3)), images.max(axis=(2, 3))  # (n, channels)
    outside = ((lows < least - slack) | (highs > greatest + slack)).any(axis=1)
    problems = [
        ImageProblem(
            int(index),
            f"expected prepared values from {least.min():.4g} to {greatest.max():.4g}, got "
            f"{lows[index].min():.4g} to {highs[index].max():.4g}; {_remedy(spec)}",
        )
        for index in np.flatnonzero(outside)
    ]
    if problems:
        raise ImageError(problems)


def unscaled(images: Floats, spec: InputSpec) -> str:
    """Return a warning if checked values are all from 0 to 1 where pixels become much more.

    Empty if they are not, and for vectors.
    """
    if not spec.preprocessing:
        return ""
    table = value_table(spec)
    if (table.min() >= -_MUCH and table.max() <= 1 + _MUCH) or images.min() < 0 or images.max() > 1:
        return ""
    return (
        f"all values are from 0 to 1, but pixels become {table.min():.4g} to {table.max():.4g} for "
        f"this model, so the answers are likely wrong; {_remedy(spec)}"
    )


def _remedy(spec: InputSpec) -> str:
    step = spec.preprocessing[-1]
    if isinstance(step, Normalize):
        how = "subtract the mean of the bundle's manifest and divide by its std"
    elif math.isclose(factor := cast(Rescale, step).factor, 1 / 255, rel_tol=1e-3):
        how = "divide them by 255"
    else:
        how = f"multiply them by {factor:.4g}"
    return f"send UINT8 pixels, or {how}"


def _check_array(images: npt.NDArray[np.generic]) -> None:
    if images.dtype != np.uint8:
        raise ImageError.about(f"expected dtype uint8 or float32, got {images.dtype}")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)):
        raise ImageError.about(
            "expected uint8 shape (n, height, width) or (n, height, width, 1 | 3 | 4), got "
            f"{images.shape}"
        )
    if 0 in images.shape:
        raise ImageError.about(f"expected at least 1 image and 1 pixel, got shape {images.shape}")
    if images.max() == 1 and (images.min(axis=(1, 2)) != images.max(axis=(1, 2))).any():
        raise ImageError.about(ONLY_ZERO_AND_ONE)


def _picture(image: Pixels) -> Image.Image:
    """Return mode L or RGB; transparent pixels become white."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    picture = Image.fromarray(np.ascontiguousarray(image))
    if picture.mode != "RGBA":
        return picture
    return over_white(picture)
