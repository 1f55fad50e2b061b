"""An array that may mean something else is refused with what to write instead."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from kshot.client.errors import InputError
from kshot.client.inputs import gather, read_images

UINT8 = np.zeros((3, 8, 9), np.uint8)
RANDOM = np.random.default_rng(0).random((3, 8, 9))


def nested(*images: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401 -- forms differ
    array = np.empty(len(images), object)
    array[:] = images
    return array


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((8, 9, 3), np.uint8), "images[None] is one image with 3 channels, images[..., N"),
        (np.zeros((8, 9, 4), np.uint8), "images[None] is one image with 4 channels"),
        (np.zeros((8, 9, 1), np.uint8), "images[None] is one image with 1 channels"),
        (np.zeros((8, 9), np.uint8), "uint8 of shape (8, 9); images[None] is one gray image"),
        (np.zeros((2, 3, 8, 9), np.uint8), "channels come last: images.transpose(0, 2, 3, 1)"),
        (np.zeros((2, 8, 9, 5), np.uint8), "one image has 1, 3 or 4 channels"),
        (np.zeros((9,), np.uint8), "got uint8 of shape (9,)"),
        (np.array(3, np.uint8), "got uint8 of shape ()"),
        (RANDOM, "float64 of shape (3, 8, 9); as pixels they are (images * 255).round().astype(np"),
        (RANDOM.astype("f4"), "as pixels they are (images * 255).round().astype(np.uint8)"),
        (RANDOM.astype("f2"), "as pixels they are (images * 255).round().astype(np.uint8)"),
        (RANDOM * 255, "as pixels they are images.round().astype(np.uint8)"),
        (RANDOM.astype(">f4") * 200, "as pixels they are images.round().astype(np.uint8)"),
        (RANDOM[..., None] * 1000, "/ 257).round().astype(np.uint8), prepared ones images.astype"),
        (RANDOM - 1, "; pixels go from 0 to 255"),
        (RANDOM * np.nan, "the values go from nan to nan; pixels go from 0 to 255"),
        (np.zeros((3, 8, 9, 3), np.float32), "as pixels they are (images * 255).round()"),
        (np.zeros((3, 7)), "vectors are images.astype(np.float32)"),
        (np.zeros(7, np.float32), "images[None] is one vector"),
        (UINT8.astype(np.int64), "int64 of shape (3, 8, 9); as pixels they are images.astype(np"),
        (UINT8.astype(np.uint16) + 60000, "as pixels they are (images / 257).round().astype(np"),
        (UINT8.astype(np.int32) - 1, "the values go from -1 to -1; pixels go from 0 to 255"),
        (UINT8 > 0, "bool of shape (3, 8, 9); as pixels they are images.astype(np.uint8) * 255"),
        (UINT8.astype(complex), "make it a plain array of numbers"),
        (UINT8.astype(object), "make it a plain array of numbers"),
        (np.zeros(3, "u1,f4"), "make it a plain array of numbers"),
        (np.array([b"a.png"]), "make it a plain array of numbers"),
        (np.zeros((0, 8, 9)), "as pixels they are images.astype(np.uint8)"),
        (np.ma.masked_equal(UINT8, 0), "expected no masked elements; use images.filled(255)"),
        ([UINT8[0], RANDOM[0]], "expected arrays of one dtype, got uint8 at 0 and float64 at 1"),
        ([UINT8[0], UINT8[0, 1:]], "one shape, got (8, 9) at 0 and (7, 9) at 1; pass pictures ins"),
        ([np.ma.masked_equal(UINT8[0], 0)], "expected no masked elements"),
        ([UINT8[0], b"x"], "image 0: expected a path, the bytes of an image file or a picture of"),
        (nested(UINT8[0], UINT8[0, 1:]), "expected arrays of one shape"),
    ],
)
def test_arrays_that_mean_something_else_are_refused(images: Any, words: str) -> None:  # noqa: ANN401 -- forms differ
    with pytest.raises(InputError, match=re.escape(words)):
        read_images(gather(images, "images"))


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        ([np.zeros((8, 3), np.uint8)] * 2, (2, 8, 3, 1)),
        ([np.zeros((8, 9, 3), np.uint8)] * 2, (2, 8, 9, 3)),
        (np.zeros((8, 9, 3), np.uint8)[None], (1, 8, 9, 3)),
        (np.zeros((8, 9, 3), np.uint8)[..., None], (8, 9, 3, 1)),
        (np.zeros((2, 4, 4), np.uint8), (2, 4, 4)),
        (np.ma.asarray(UINT8), (3, 8, 9)),
        (UINT8[:, ::2, ::-1], (3, 4, 9)),
        (nested(*UINT8), (3, 8, 9)),
        ([np.zeros(5, ">f4"), np.zeros(5, "<f4")], (2, 5)),
    ],
)
def test_arrays_without_doubt_are_taken(images: Any, shape: tuple[int, ...]) -> None:  # noqa: ANN401 -- forms differ
    array = read_images(gather(images, "images"))

    assert isinstance(array, np.ndarray)
    assert array.shape == shape


@pytest.mark.parametrize(
    "dtype",
    ["u1", "i1", ">u2", "i8", "f2", ">f4", "c8", "?", "O", "S3", "U3", "V4", "m8[s]", "u1,u1"],
)
def test_arrays_of_any_kind_are_taken_or_refused(dtype: str) -> None:
    shapes = [(), (0,), (3,), (8, 9), (4, 8, 9), (8, 9, 3), (4, 8, 9, 2), (4, 3, 8, 9), (0, 8, 9)]
    for shape in [*shapes, (4, 0, 9), (0, 600, 600), (1, 600, 600, 0), (1, 4, 8, 9, 1)]:
        array = np.zeros(shape, dtype)
        for images in (array, [array, array], [array, None], array.T):
            try:
                read = read_images(gather(images, "images"), side=512)
            except InputError as error:
                assert str(error).startswith("image")
                continue
            if isinstance(read, tuple):
                assert read == () and len(images) == 0  # no files
            else:
                assert read.dtype.name in ("uint8", "float32")
