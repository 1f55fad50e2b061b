"""Images in all the forms that callers have them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kshot.client import encoding
from kshot.client.encoding import encode_images
from kshot.client.errors import InputError
from kshot.client.inputs import gather, name_item, read_images


@pytest.mark.parametrize(
    ("images", "datatype", "shape"),
    [
        pytest.param(np.zeros((2, 8, 9), np.uint8), "UINT8", [2, 8, 9], id="gray"),
        pytest.param(np.zeros((2, 8, 9, 3), np.uint8), "UINT8", [2, 8, 9, 3], id="colour"),
        pytest.param(np.zeros((2, 1, 8, 9), np.float32), "FP32", [2, 1, 8, 9], id="prepared"),
        pytest.param(np.zeros((2, 1, 8, 9), ">f4"), "FP32", [2, 1, 8, 9], id="big-endian"),
        pytest.param(np.zeros((2, 7), np.float32), "FP32", [2, 7], id="vectors"),
        pytest.param([np.zeros((8, 9), np.uint8)] * 2, "UINT8", [2, 8, 9], id="list"),
        pytest.param(np.zeros((0, 8, 9), np.uint8), "UINT8", [0, 8, 9], id="none"),
    ],
)
def test_arrays_become_one_tensor(images: Any, datatype: str, shape: list[int]) -> None:  # noqa: ANN401 -- forms differ
    tensor = encode_images(gather(images, "images")).tensor

    assert tensor.datatype == datatype
    assert list(tensor.shape) == shape


def test_elements_are_little_endian_and_row_major() -> None:
    values = np.arange(12, dtype=">f4").reshape(1, 1, 3, 4).transpose(0, 1, 3, 2)

    tensor = encode_images(values).tensor

    assert list(tensor.shape) == [1, 1, 4, 3]
    assert np.frombuffer(tensor.data, "<f4").tolist() == values.ravel().tolist()


def test_paths_and_bytes_become_encoded_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")

    encoded = encode_images(gather([path, str(path), bytearray(b"two")], "images")).encoded

    assert list(encoded.items) == [b"one", b"one", b"two"]


class Tensor:
    """A tensor of PyTorch, as far as the client looks at one."""

    __module__ = "torch"

    def __init__(self, array: np.ndarray[Any, Any] | None) -> None:
        self.array = array

    def numpy(self, force: bool) -> np.ndarray[Any, Any]:
        if self.array is None:
            raise TypeError("Got unsupported ScalarType BFloat16")
        assert force
        return self.array


@pytest.mark.parametrize(
    ("shape", "sent"),
    [
        ((2, 3, 8, 9), (2, 8, 9, 3)),
        ((2, 8, 9, 3), (2, 8, 9, 3)),
        ((3, 8, 9), (3, 8, 9)),
    ],
)
def test_tensors_become_arrays(shape: tuple[int, ...], sent: tuple[int, ...]) -> None:
    """Pixels of PyTorch have their channels first."""
    images = gather(Tensor(np.zeros(shape, np.uint8)), "images")

    assert isinstance(images, np.ndarray)
    assert images.shape == sent


def test_lists_of_tensors_are_images_each() -> None:
    pixels = np.arange(3 * 8 * 9, dtype=np.uint8).reshape(3, 8, 9)
    encoded = encode_images(gather([Tensor(pixels), Tensor(pixels)], "images")).tensor
    floats = gather(Tensor(pixels[None].astype(np.float32)), "images")

    assert list(encoded.shape) == [2, 8, 9, 3]
    assert encoded.data == pixels.transpose(1, 2, 0).tobytes() * 2
    assert isinstance(floats, np.ndarray)
    assert floats.shape == (1, 3, 8, 9)


class Foreign:
    """As arrays of other libraries are."""

    __module__ = "jaxlib"

    def __array__(self) -> np.ndarray[Any, Any]:
        return np.zeros((2, 8, 9), np.uint8)


ITEM = "expected a path, the bytes of an image file or a picture of Pillow, got "


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("one.png", "images: expected a sequence of images, got one str; put it into a list"),
        (Path("one.png"), "images: expected a sequence of images, got one PosixPath"),
        (b"one", "images: expected a sequence of images, got one bytes"),
        (io.BytesIO(b"one"), "images: expected a sequence of images, got one BytesIO"),
        (Image.new("L", (8, 8)), "images: expected a sequence of images, got one Image"),
        (None, "images: expected a sequence of images, got None"),
        ({"a": b"x"}, "images: expected a sequence of images, got {'a': b'x'}"),
        (Foreign(), "expected a NumPy array, got jaxlib.Foreign; use np.asarray(images)"),
        ([Foreign()], f"image 0: {ITEM}jaxlib.Foreign; use np.asarray(image)"),
        (Tensor(None), "images: expected a dense tensor of a dtype of NumPy, got"),
        ([Tensor(None)], "image 0: expected a dense tensor of a dtype of NumPy, got"),
        (["nowhere/one.png"], "image 0: nowhere/one.png: No such file or directory"),
        (["one\0.png"], "image 0: 'one\\x00.png': not a path: embedded null byte"),
        (["."], "image 0: .: Is a directory"),
        ([b"x", 3], f"image 1: {ITEM}3"),
        ([b"x", None], f"image 1: {ITEM}None"),
        ([[[0, 1], [1, 0]]], f"image 0: {ITEM}a list; use np.array(image, np.uint8)"),
        ([io.BytesIO(b"x")], f"image 0: {ITEM}BytesIO; use its read()"),
    ],
)
def test_what_cannot_be_sent_is_refused(images: Any, words: str) -> None:  # noqa: ANN401 -- forms differ
    with pytest.raises(InputError, match=re.escape(words)):
        read_images(gather(images, "images"))


def test_queries_are_called_queries() -> None:
    with pytest.raises(InputError, match="query 1: expected a path"):
        read_images(gather([b"x", None], "queries"), field="queries")


def test_names_of_files_come_from_paths() -> None:
    images = gather([Path("a/b.png"), "c.png", b"x"], "images")

    assert [name_item(images, index, "images") for index in range(4)] == [
        "a/b.png",
        "c.png",
        "image 2",
        "image 3",
    ]


def test_more_than_a_message_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_MOST_BYTES", 100)

    for images in (np.zeros((2, 8, 9), np.uint8), [b"x" * 51] * 2):
        with pytest.raises(InputError, match="images: expected at most 100 bytes in one call"):
            encode_images(gather(images, "images"))
