"""What callers hand in: images and labels, brought to the few forms that the wire has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kshot.client.errors import InputError

Label: TypeAlias = str | int
EncodedImage: TypeAlias = bytes | str | Path
Images: TypeAlias = npt.NDArray[np.generic] | Sequence[npt.NDArray[np.generic] | EncodedImage]


@dataclass(frozen=True)
class Classes:
    """The distinct labels in sorted order, and the index of each example's label among them."""

    labels: tuple[Label, ...]
    indices: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as the wire has them."""
        return tuple(map(str, self.labels))


def read_images(images: Images) -> npt.NDArray[np.generic] | tuple[bytes, ...]:
    """Return one array, or the bytes of image files.

    Arrays are uint8 (n, height, width) or (n, height, width, channels), or prepared float32
    (n, channels, height, width); a sequence of arrays of one shape becomes one array. Paths are
    read, bytes are taken as encoded images. Raises `InputError` for anything else.
    """
    if isinstance(images, np.ndarray):
        return _checked(images)
    if isinstance(images, str | bytes | Path):
        raise InputError(f"images are one {type(images).__name__}; want a sequence of images")
    items = list(images)
    if not items:
        return ()
    if all(isinstance(item, np.ndarray) for item in items):
        arrays = [item for item in items if isinstance(item, np.ndarray)]
        if len(shapes := {array.shape for array in arrays}) > 1:
            raise InputError(
                f"the arrays have {len(shapes)} shapes, {sorted(shapes)[:3]} among them; "
                "want one shape, or encoded images"
            )
        return _checked(np.stack(arrays))
    return tuple(_encoded(index, item) for index, item in enumerate(items))


def read_labels(labels: Sequence[Label] | npt.NDArray[np.generic], image_count: int) -> Classes:
    """Return the classes of a support set; `InputError` unless there is one label per image."""
    given = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    if len(given) != image_count:
        raise InputError(f"{len(given)} labels for {image_count} images; want one for each")
    plain: list[Label] = []
    for index, label in enumerate(given):
        if isinstance(label, bool) or not isinstance(label, str | int | np.integer):
            raise InputError(f"label {index} is {label!r}; want a string or an int")
        if isinstance(label, str) and not _is_unicode(label):
            raise InputError(f"label {index} is {label!r}, which is not valid Unicode")
        plain.append(label if isinstance(label, str) else int(label))
    if len({type(label) for label in plain}) > 1:
        raise InputError("labels are strings and ints mixed; want one of the two")
    distinct = tuple(sorted(set(plain), key=lambda label: (isinstance(label, str), label)))
    place = {label: index for index, label in enumerate(distinct)}
    return Classes(distinct, tuple(place[label] for label in plain))


def _checked(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if array.dtype == np.uint8 and array.ndim in {3, 4}:
        return array
    if array.dtype.newbyteorder("=") == np.float32 and array.ndim == 4:
        return array
    raise InputError(
        f"images are {array.dtype} of shape {array.shape}; want uint8 (n, height, width[, "
        "channels]) or prepared float32 (n, channels, height, width)"
    )


def _encoded(index: int, item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if not isinstance(item, str | Path):
        raise InputError(
            f"image {index} is of type {type(item).__name__}; want bytes of an image file or a path"
        )
    try:
        return Path(item).read_bytes()
    except OSError as error:
        raise InputError(f"image {index}: {item}: {error.strerror}") from error


def _is_unicode(text: str) -> bool:
    """Tell text from what Python makes of a file name that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
