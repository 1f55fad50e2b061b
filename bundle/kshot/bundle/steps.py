"""The steps of preprocessing as a manifest names them, and the input that they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kshot.bundle.field_types import Count, Fraction, Positive


@dataclass(frozen=True)
class Grayscale:
    """Make one channel of luminance."""

    step: Literal["grayscale"] = field(default="grayscale", kw_only=True)


@dataclass(frozen=True)
class Rgb:
    """Make three channels."""

    step: Literal["rgb"] = field(default="rgb", kw_only=True)


@dataclass(frozen=True)
class Polarity:
    """Invert an image whose ground, the median of its border, is not the `ground` named here."""

    step: Literal["polarity"] = field(default="polarity", kw_only=True)
    ground: Literal["light", "dark"]


@dataclass(frozen=True)
class Ink:
    """Cut a drawing out of its ground: 0 becomes the ground, 255 the strongest ink.

    The ground is the median of the border, so light and dark paper give the same. The cut is the
    square around the ink, padded on each side by `margin` of the ink's longer side. Behind the
    resize, which makes thin strokes faint, the strongest ink is made 255 again. A blank image
    becomes 0.
    """

    step: Literal["ink"] = field(default="ink", kw_only=True)
    margin: Fraction


@dataclass(frozen=True)
class Square:
    """Make the sides equal: pad with the median colour of the border, or crop to the middle."""

    step: Literal["square"] = field(default="square", kw_only=True)
    by: Literal["pad", "crop"]


@dataclass(frozen=True)
class Reduce:
    """Reduce by area what is larger than `height` by `width` pixels, before a nearest resize."""

    step: Literal["reduce"] = field(default="reduce", kw_only=True)
    height: Count
    width: Count


@dataclass(frozen=True)
class Resize:
    """Resize an image of any size and aspect to `height` by `width` pixels.

    All methods but `nearest` average over the pixels that they leave out; `box` averages by area.
    """

    step: Literal["resize"] = field(default="resize", kw_only=True)
    height: Count
    width: Count
    method: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Rescale:
    """Multiply pixels 0..255 by a factor."""

    step: Literal["rescale"] = field(default="rescale", kw_only=True)
    factor: Positive


@dataclass(frozen=True)
class Normalize:
    """Subtract `mean` from pixels 0..255 and divide by `std`: one number for each channel."""

    step: Literal["normalize"] = field(default="normalize", kw_only=True)
    mean: tuple[float, ...]
    std: tuple[Positive, ...]


PreprocessingStep = (
    Grayscale | Rgb | Polarity | Ink | Square | Reduce | Resize | Rescale | Normalize
)


@dataclass(frozen=True)
class InputSpec:
    """The shape of a prepared example, `(channels, height, width)`, and the steps that make it.

    The steps are a colour step, then any of `polarity`, `ink`, `square` and `reduce` in this order,
    a resize, and a rescale or normalize. An input without steps is a vector, `(features, 1, 1)`.
    """

    shape: tuple[Count, Count, Count]
    preprocessing: tuple[PreprocessingStep, ...]
    dtype: Literal["float32"] = "float32"


def resize_of(spec: InputSpec) -> Resize:
    """Return the resize of an input that has steps."""
    return next(step for step in spec.preprocessing if isinstance(step, Resize))
