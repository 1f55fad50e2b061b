"""The images of callers, brought to the few forms of the wire."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, Union, cast

import numpy as np
import numpy.typing as npt

from kshot.client.arrays import CHANNELS, check_array, stack_arrays
from kshot.client.errors import InputError
from kshot.client.heic import readable
from kshot.client.shrinking import encode_picture, is_picture, shrink_arrays, shrink_file
from kshot.client.values import shown

if TYPE_CHECKING:
    from PIL import Image

EncodedImage: TypeAlias = bytes | str | os.PathLike[str]
Images: TypeAlias = Union[  # noqa: UP007 -- a name in quotes has no `|`
    npt.NDArray[np.generic],
    Sequence[Union[npt.NDArray[np.generic], EncodedImage, "Image.Image"]],
]
Gathered: TypeAlias = npt.NDArray[np.generic] | list[object]


def gather(images: object, field: str) -> Gathered:
    """Return images as one array, or as a list of images; a generator is read once.

    Tensors of PyTorch become arrays; uint8 ones with their channels first get them last.
    `field` is the caller's name for them, `images` or `queries`. Raises `InputError` for one image
    and for what is no sequence.
    """
    if isinstance(images, np.ndarray):
        listed = images.dtype.kind in "OU" and images.ndim == 1
        return list(images) if listed else images
    if isinstance(images, str | bytes | bytearray | os.PathLike | io.IOBase) or is_picture(images):
        raise InputError(
            f"{field}: expected a sequence of images, got one {type(images).__name__}; put it "
            "into a list"
        )
    if is_tensor(images):
        return _from_tensor(images, 4, field)
    if hasattr(images, "__array__"):
        raise InputError(f"{field}: expected a NumPy array, got {_foreign(images, field)}")
    if isinstance(images, Mapping | Set | memoryview) or not isinstance(images, Iterable):
        raise InputError(f"{field}: expected a sequence of images, got {shown(images)}")
    return [
        _from_tensor(item, 3, f"{_singular(field)} {index}") if is_tensor(item) else item
        for index, item in enumerate(images)
    ]


def read_images(
    images: Gathered, side: int = 0, field: str = "images"
) -> npt.NDArray[np.generic] | tuple[bytes, ...]:
    """Return gathered images as one array, or as the bytes of image files.

    Arrays are uint8 (n, height, width) or (n, height, width, channels), prepared float32
    (n, channels, height, width), or float32 vectors (n, features); a list of arrays of one shape
    and dtype becomes one array. Paths are read, bytes are taken as encoded images, pictures of
    Pillow are encoded. A `side` above 0 bounds the shorter side of what is not prepared, one image
    after another. Raises `InputError` for anything else.
    """
    if isinstance(images, list):
        if not images or not all(isinstance(item, np.ndarray) for item in images):
            return tuple(_encoded(index, item, side, field) for index, item in enumerate(images))
        images = stack_arrays(cast(list[npt.NDArray[np.generic]], images), field)
    array = check_array(images, field)
    is_pixels = side and array.size and array.dtype == np.uint8
    return shrink_arrays(cast(npt.NDArray[np.uint8], array), side) if is_pixels else array


def name_item(images: Gathered, index: int, field: str) -> str:
    """Name one of the images as its caller knows it: by its file, else by its place."""
    item = images[index] if isinstance(images, list) and index < len(images) else None
    known = isinstance(item, str | os.PathLike)
    return os.fspath(cast(str, item)) if known else f"{_singular(field)} {index}"


def _encoded(index: int, item: object, side: int, field: str) -> bytes:
    name = f"{_singular(field)} {index}"
    if is_picture(item):
        try:
            return encode_picture(item, side)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        except Exception as error:  # Pillow raises nearly any exception on a damaged file
            raise InputError(f"{name}: this picture cannot be encoded: {error}") from error
    if isinstance(item, bytes | bytearray | memoryview):
        content = bytes(item)
    elif isinstance(item, str | os.PathLike):
        try:
            content = Path(item).read_bytes()
        except OSError as error:
            raise InputError(f"{name}: {item!s}: {error.strerror}") from error
        except (ValueError, TypeError) as error:  # a NUL, half of a surrogate pair, a path of bytes
            raise InputError(f"{name}: {shown(item)}: not a path: {error}") from error
    else:
        raise InputError(f"{name}: {_EXPECTED_ITEM}, got {_got(item)}")
    try:
        content = readable(content)
    except InputError as error:
        of = f"{item!s}: " if isinstance(item, str | os.PathLike) else ""
        raise InputError(f"{name}: {of}{error}") from error
    return shrink_file(content, side) if side else content


_EXPECTED_ITEM = "expected a path, the bytes of an image file or a picture of Pillow"


def _got(item: object) -> str:
    if isinstance(item, np.ndarray):
        return "an array beside others that are none; use PIL.Image.fromarray(array)"
    if hasattr(item, "__array__") and not isinstance(item, np.generic):
        return _foreign(item, "image")
    if isinstance(item, io.IOBase):
        return f"{type(item).__name__}; use its read()"
    if isinstance(item, list | tuple):
        return f"a {type(item).__name__}; use np.array(image, np.uint8)"
    return shown(item)


def is_tensor(item: object) -> TypeGuard[Any]:
    """Tell whether an object is a tensor of PyTorch."""
    kind = type(item)
    return kind.__module__.partition(".")[0] == "torch" and hasattr(item, "numpy")


def _from_tensor(tensor: Any, axes: int, name: str) -> npt.NDArray[np.generic]:  # noqa: ANN401 -- torch's, which is not imported
    """Return a tensor as an array; uint8 (…, channels, height, width) gets its channels last.

    `axes` are those that a tensor with channels has.
    """
    try:
        array: npt.NDArray[np.generic] = tensor.numpy(force=True)
    except (RuntimeError, TypeError) as error:  # bfloat16, sparse
        raise InputError(
            f"{name}: expected a dense tensor of a dtype of NumPy, got {shown(tensor)}"
        ) from error
    first = array.dtype == np.uint8 and array.ndim == axes and array.shape[-3] in CHANNELS
    return np.moveaxis(array, -3, -1) if first and array.shape[-1] not in CHANNELS else array


def _foreign(array: object, name: str) -> str:
    """Name an array of another library, with the remedy."""
    kind = type(array)
    library = kind.__module__.partition(".")[0]
    return f"{library}.{kind.__name__}; use np.asarray({name})"


def _singular(field: str) -> str:
    return "query" if field == "queries" else "image"
