"""Images and labels in all the forms that callers have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.client.encoding import encode_images
from kshot.client.errors import InputError
from kshot.client.inputs import read_images, read_labels


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
    tensor = encode_images(images).tensor

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

    encoded = encode_images([path, str(path), b"two"]).encoded

    assert list(encoded.items) == [b"one", b"one", b"two"]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 8, 9)), "got float64 of shape (2, 8, 9)"),
        (np.zeros((8, 9), np.uint8), "uint8 of shape (8, 9)"),
        (
            np.zeros((2, 8, 9), np.float32),
            "expected uint8 (n, height, width[, channels]), prepared",
        ),
        ([np.zeros((8, 9), np.uint8), np.zeros((9, 9), np.uint8)], "2 shapes"),
        ("one.png", "expected a sequence of images, got one str"),
        (["nowhere/one.png"], "image 0: nowhere/one.png: No such file or directory"),
        ([b"x", 3], "image 1: expected a path or the bytes of an image file, got int"),
    ],
)
def test_what_cannot_be_sent_is_refused(images: Any, words: str) -> None:  # noqa: ANN401 -- forms differ
    with pytest.raises(InputError, match=re.escape(words)):
        read_images(images)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a"], "labels: expected one for each of 2 images, got 1"),
        (["a", 1], "labels: expected only strings or only ints, got both"),
        (["a", 1.5], "label 1: expected a string or an int, got 1.5"),
        (["a", "\udcff"], "label 1: expected valid Unicode, got '\\udcff'"),
        ([True, False], "label 0: expected a string or an int, got True"),
        (np.array([0.5, 1.5]), "label 0: expected a string or an int, got 0.5"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Any, words: str) -> None:  # noqa: ANN401 -- forms differ
    with pytest.raises(InputError, match=re.escape(words)):
        read_labels(labels, 2)


# What UTF-8 can carry: no halves of surrogate pairs.
TEXT = st.text(st.characters(codec="utf-8"))


@given(st.lists(st.integers(), min_size=1) | st.lists(TEXT, min_size=1))
def test_classes_are_sorted_and_give_every_label_back(labels: list[Any]) -> None:
    classes = read_labels(labels, len(labels))

    assert list(classes.labels) == sorted(set(labels))
    assert [classes.labels[index] for index in classes.indices] == labels


def test_labels_of_numpy_become_plain_ones() -> None:
    classes = read_labels(np.array([2, 1, 2]), 3)

    assert classes.labels == (1, 2)
    assert all(type(label) is int for label in classes.labels)
    assert classes.names == ("1", "2")
