"""Labels come back as they were given, type and value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.client import Client, InputError
from kshot.client.labels import label_array, read_labels

if TYPE_CHECKING:
    from conftest import FakeServicer


class Colour(str, Enum):  # noqa: UP042 -- a StrEnum has another repr
    RED = "red"
    BLUE = "blue"


class Place(IntEnum):
    FIRST = 1
    SECOND = 2


class Own(str):
    """A string of the caller's."""

    __slots__ = ("note",)


KINDS: list[Sequence[Any]] = [
    ["a", "a\0", "\0", "ä"],
    [2**63, 2**63 + 1, -(2**63) - 1, 0],
    [2**200, -(2**200), 2**53 + 1, 2**53],
    [Colour.RED, Colour.BLUE, Colour.RED, Colour.RED],
    [Place.FIRST, Place.SECOND, 3, 4],
    [np.str_("a"), "b", np.str_("c\0"), Own("d")],
    [np.int64(1), 2, np.uint8(3), np.uint64(2**64 - 1)],
    list(np.array([3, 1, 2, 1], np.int8)),
    [0, 1, 0, 1],
    ["0", "1", "10", "9"],
]


@pytest.mark.parametrize("labels", KINDS, ids=repr)
def test_labels_come_back_as_given(client: Client, labels: Sequence[Any]) -> None:
    images = np.zeros((len(labels), 6, 5), np.uint8)
    adapted = client.adapt(images, labels, model="omniglot")
    answers = [
        adapted.predict(images).labels,
        client.adapt_and_predict(images, labels, images, model="omniglot").labels,
    ]

    assert adapted.labels is not None
    way = len(adapted.labels)
    assert {(type(label), label) for label in adapted.labels} == {
        (type(label), label) for label in labels
    }
    for answer in answers:  # query i is of class i modulo way
        for label, expected in zip(answer, (adapted.labels * 4)[: len(labels)], strict=True):
            # Those of an array of plain ints, which can index and count, are ints in its list.
            got = label.tolist() if answer.dtype == np.int64 and type(expected) is int else label
            assert (type(got), got) == (type(expected), expected)
    assert len(set(adapted.class_names)) == way


def test_texts_of_labels_are_names_on_the_wire(client: Client, servicer: FakeServicer) -> None:
    images = np.zeros((4, 6, 5), np.uint8)
    client.adapt(images, [Colour.RED, Colour.BLUE, "red", np.str_("blue")])
    client.adapt(images, [Place.FIRST, 1, np.int64(2), -10])

    names = [list(request.support_set.class_names) for request in servicer.requests]  # type: ignore[attr-defined] # all adapt
    assert names == [["blue", "red"], ["-10", "1", "2"]]


@pytest.mark.parametrize("dtype", ["int8", ">i4", "uint64", "<U3"])
def test_labels_of_an_array_come_back_in_its_dtype(client: Client, dtype: str) -> None:
    images = np.zeros((4, 6, 5), np.uint8)
    labels = np.array([7, 3, 7, 3]).astype(dtype)

    answers = client.adapt(images, labels).predict(images).labels

    assert answers.dtype.type == labels.dtype.type
    np.testing.assert_array_equal(answers, labels[[1, 0, 1, 0]])


def test_the_first_label_of_a_class_comes_back() -> None:
    classes = read_labels([np.int64(1), 1, Place.FIRST, 2], 4)

    assert classes.indices == (0, 0, 0, 1)
    assert [type(label) for label in classes.labels] == [np.int64, int]


def test_other_labels_of_one_text_are_refused() -> None:
    class Alone(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            return self is other

        def __ne__(self, other: object) -> bool:
            return self is not other

    with pytest.raises(InputError, match="labels 0 and 2: expected different texts for different"):
        read_labels([Alone("a"), "b", Alone("a")], 3)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a"], "labels: expected one for each of 2 images, got 1"),
        (["a", 1], "labels: expected only strings or only ints, got both"),
        (["1", 1], "labels: expected only strings or only ints, got both"),
        (["a", 1.5], "label 1: expected a string or an int, got 1.5; use int(label) or str(label)"),
        (["a", "\udcff"], "label 1: expected valid Unicode, got '\\udcff'"),
        ([True, False], "label 0: expected a string or an int, got True"),
        ([np.True_, 1], "label 0: expected a string or an int, got np.True_"),
        ([None, "a"], "label 0: expected a string or an int, got None"),
        ([b"a", b"b"], "label 0: expected a string or an int, got b'a'; use label.decode()"),
        ([["a"], ["b"]], "label 0: expected a string or an int, got ['a']"),
        ([np.array(1), np.array(2)], "got array(1); use labels.tolist()"),
        ([np.timedelta64(1, "s"), 1], "label 0: expected a string or an int, got np.timedelta64"),
        ([10**300, 1], "label 0: expected an int of up to 256 digits, got a longer one"),
        (np.array([0.5, 1.5]), "label 0: expected a string or an int, got np.float64(0.5)"),
        (np.array([[0], [1]]), "expected an array with one axis, got shape (2, 1); use labels.rav"),
        (np.eye(2), "got shape (2, 2); use labels.argmax(axis=1), if they are one-hot"),
        (np.array("a"), "labels: expected an array with one axis, got shape ()"),
        ("ab", "labels: expected a sequence with one label for each image, got 'ab'"),
        ({"a", "b"}, "labels: expected a sequence with one label for each image, got {"),
        ({"a": 0, "b": 1}, "labels: expected a sequence with one label for each image, got {'a'"),
        (None, "labels: expected a sequence with one label for each image, got None"),
        (2, "labels: expected a sequence with one label for each image, got 2"),
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
    assert list(label_array(classes.labels)[list(classes.indices)]) == labels


def test_plain_ints_come_back_in_an_array_that_can_index() -> None:
    assert label_array([3, 0]).dtype == np.int64
    assert label_array([3, 0]).tolist() == [3, 0]
    assert label_array([np.int64(3), 0]).dtype == np.int64
    assert label_array([2**63, 0]).dtype == object
    assert label_array([-(2**63), 2**63 - 1]).tolist() == [-(2**63), 2**63 - 1]
