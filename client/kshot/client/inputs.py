"""The images and labels of callers, brought to the few forms of the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union, cast

import numpy as np
import numpy.typing as npt

from kshot.client.errors import InputError
from kshot.client.shrinking import encode_picture, is_picture, shrink_arrays, shrink_file

if TYPE_CHECKING:
    from PIL import Image

Label: TypeAlias = str | int
EncodedImage: TypeAlias = bytes | str | Path
Images: TypeAlias = Union[  # noqa: UP007 -- a name in quotes has no `|`
    npt.NDArray[np.generic],
    Sequence[Union[npt.NDArray[np.generic], EncodedImage, "Image.Image"]],
]


@dataclass(frozen=True)
class Classes:
    """The distinct labels in sorted order, and the index of each example's label among them."""

    labels: tuple[Label, ...]
    indices: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as strings, as on the wire."""
        return tuple(map(str, self.labels))


def read_images(images: Images, side: int = 0) -> npt.NDArray[np.generic] | tuple[bytes, ...]:
    """Return one array, or the bytes of image files.

    Arrays are uint8 (n, height, width) or (n, height, width, channels), prepared float32
    (n, channels, height, width), or float32 vectors (n, features); a sequence of arrays of one
    shape becomes one array. Paths are read, bytes are taken as encoded images, pictures of Pillow
    are encoded. A `side` above 0 bounds the shorter side of what is not prepared, one image after
    another. Raises `InputError` for anything else.
    """
    if isinstance(images, np.ndarray):
        return _checked(images, side)
    if isinstance(images, str | bytes | Path) or is_picture(images):
        raise InputError(f"images: expected a sequence of images, got one {type(images).__name__}")
    items = list(images)
    if not items:
        return ()
    if all(isinstance(item, np.ndarray) for item in items):
        arrays = [item for item in items if isinstance(item, np.ndarray)]
        if len(shapes := {array.shape for array in arrays}) > 1:
            raise InputError(
                f"images: expected arrays of one shape, or encoded images, got {len(shapes)} "
                f"shapes, {sorted(shapes)[:3]} among them"
            )
        return _checked(np.stack(arrays), side)
    return tuple(_encoded(index, item, side) for index, item in enumerate(items))


def read_labels(labels: Sequence[Label] | npt.NDArray[np.generic], image_count: int) -> Classes:
    """Return the classes of a support set; raise `InputError` unless each image has one."""
    given = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    if len(given) != image_count:
        raise InputError(f"labels: expected one for each of {image_count} images, got {len(given)}")
    plain: list[Label] = []
    for index, label in enumerate(given):
        if isinstance(label, bool) or not isinstance(label, str | int | np.integer):
            raise InputError(f"label {index}: expected a string or an int, got {label!r}")
        if isinstance(label, str) and not _is_unicode(label):
            raise InputError(f"label {index}: expected valid Unicode, got {label!r}")
        plain.append(label if isinstance(label, str) else int(label))
    if len({type(label) for label in plain}) > 1:
        raise InputError("labels: expected only strings or only ints, got both")
    distinct = tuple(sorted(set(plain), key=lambda label: (isinstance(label, str), label)))
    place = {label: index for index, label in enumerate(distinct)}
    return Classes(distinct, tuple(place[label] for label in plain))


def _checked(array: npt.NDArray[np.generic], side: int) -> npt.NDArray[np.generic]:
    if array.dtype == np.uint8 and array.ndim in {3, 4}:
        return shrink_arrays(cast(npt.NDArray[np.uint8], array), side) if side else array
    if array.dtype.newbyteorder("=") == np.float32 and array.ndim in {2, 4}:
        return array
    raise InputError(
        "images: expected uint8 (n, height, width[, channels]), prepared float32 (n, channels, "
        "height, width) or float32 vectors (n, features), got "
        f"{array.dtype} of shape {array.shape}"
    )


def _encoded(index: int, item: object, side: int) -> bytes:
    if is_picture(item):
        try:
            return encode_picture(item, side)
        except Exception as error:  # Pillow raises nearly any exception on a damaged file
            raise InputError(f"image {index}: this picture cannot be encoded: {error}") from error
    if not isinstance(item, bytes | str | Path):
        raise InputError(
            f"image {index}: expected a path or the bytes of an image file, got "
            f"{type(item).__name__}"
        )
    try:
        content = item if isinstance(item, bytes) else Path(item).read_bytes()
    except OSError as error:
        raise InputError(f"image {index}: {item!s}: {error.strerror}") from error
    return shrink_file(content, side) if side else content


def _is_unicode(text: str) -> bool:
    """Tell whether text can be encoded; a file name that is not UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
