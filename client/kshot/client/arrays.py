"""Checks of arrays of images: what they mean, and how to write what was meant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kshot.client.errors import InputError

Array = npt.NDArray[np.generic]

EXPECTED = (
    "expected uint8 (n, height, width[, channels]), prepared float32 (n, channels, height, width) "
    "or float32 vectors (n, features)"
)
CHANNELS = (1, 3, 4)
_MOST_CHANNELS = max(CHANNELS)


def check_array(array: Array, field: str) -> Array:
    """Return an array that can be sent; raise `InputError` with the remedy for another."""
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise InputError(f"{field}: expected no masked elements; use {field}.filled(255)")
        array = array.data
    if array.dtype == np.uint8:
        remedy = _of_bytes(array.shape, field)
    elif array.dtype.newbyteorder("=") == np.float32:
        remedy = _of_floats(array, field)
    else:
        remedy = _of_others(array, field)
    if remedy is None:
        return array
    got = f"{array.dtype.name or array.dtype} of shape {array.shape}"
    raise InputError(f"{field}: {EXPECTED}, got {got}{remedy and '; '}{remedy}")


def stack_arrays(arrays: Sequence[Array], field: str) -> Array:
    """Return images, one array each, as one array; raise `InputError` if they differ in kind."""
    first = arrays[0]
    for index, array in enumerate(arrays):
        if array.dtype.newbyteorder("=") != first.dtype.newbyteorder("="):
            raise InputError(
                f"{field}: expected arrays of one dtype, got {first.dtype} at 0 and {array.dtype} "
                f"at {index}; make each of them uint8, from 0 to 255"
            )
        if array.shape != first.shape:
            raise InputError(
                f"{field}: expected arrays of one shape, got {first.shape} at 0 and {array.shape} "
                f"at {index}; pass pictures instead: [PIL.Image.fromarray(each) for each in "
                f"{field}]"
            )
    stacked = np.ma.stack(arrays) if any(map(np.ma.isMaskedArray, arrays)) else np.stack(arrays)
    narrow = stacked.dtype == np.uint8 and stacked.ndim == 3 and stacked.shape[2] <= _MOST_CHANNELS
    return stacked[..., None] if narrow else stacked  # gray without doubt


def _of_bytes(shape: tuple[int, ...], field: str) -> str | None:
    """Return the remedy for uint8, None if nothing is wrong."""
    if len(shape) == 2:
        return f"{field}[None] is one gray image"
    if len(shape) == 3 and 0 < shape[2] <= _MOST_CHANNELS < shape[1]:
        return (
            f"{field}[None] is one image with {shape[2]} channels, {field}[..., None] are gray "
            f"images {shape[2]} pixels wide"
        )
    if len(shape) == 4 and shape[3] not in (0, *CHANNELS):
        if shape[1] in CHANNELS:
            return f"channels come last: {field}.transpose(0, 2, 3, 1)"
        return "one image has 1, 3 or 4 channels"
    return None if len(shape) in (3, 4) else ""


def _of_floats(array: Array, field: str) -> str | None:
    shape = array.shape
    if len(shape) == 1:
        return f"{field}[None] is one vector"
    last = len(shape) == 4 and shape[3] in CHANNELS and min(shape[1:3]) > _MOST_CHANNELS
    if last or len(shape) == 3:
        return _as_pixels(array, field)
    return None if len(shape) in (2, 4) else ""


def _of_others(array: Array, field: str) -> str:
    if array.dtype.kind not in "biuf":
        return "make it a plain array of numbers"
    if array.dtype.kind == "f" and array.ndim == 2:
        return f"vectors are {field}.astype(np.float32)"
    return _as_pixels(array, field)


def _as_pixels(array: Array, field: str) -> str:
    """Return how to make pixels of real numbers, by their range."""
    if array.dtype.kind == "b":
        return f"as pixels they are {field}.astype(np.uint8) * 255"
    if array.size == 0:
        return f"as pixels they are {field}.astype(np.uint8)"
    least, most = float(array.min()), float(array.max())
    floats = array.dtype.kind == "f"
    prepared = f", prepared ones {field}.astype(np.float32)" if floats and array.ndim == 4 else ""
    if array.dtype.newbyteorder("=") == np.float32:
        prepared = ""
    if not 0 <= least <= most < np.inf:
        return f"the values go from {least:g} to {most:g}; pixels go from 0 to 255{prepared}"
    if floats and most <= 1:
        pixels = f"({field} * 255).round().astype(np.uint8)"
    elif most <= 255:
        pixels = f"{field}{'.round()' if floats else ''}.astype(np.uint8)"
    else:
        pixels = f"({field} / {257 if most < 2**16 else most / 255:g}).round().astype(np.uint8)"
    return f"as pixels they are {pixels}{prepared}"
