"""The labels of callers: classes by their text, and the way back to what was given."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from kshot.client.errors import InputError
from kshot.client.values import check_text, shown

Label: TypeAlias = str | int
Labels: TypeAlias = Sequence[Label] | npt.NDArray[np.generic]
_MOST_BITS = 850  # of an int with 256 digits, the bytes that a name may have


@dataclass(frozen=True)
class Classes:
    """The distinct labels, sorted, and the index of each example's label among them.

    `labels` are as they were given, the first of each class; `names` are their texts on the wire.
    """

    labels: tuple[Label, ...]
    names: tuple[str, ...]
    indices: tuple[int, ...]


def read_labels(labels: Labels, image_count: int) -> Classes:
    """Return the classes of a support set; raise `InputError` unless each image has a label.

    Labels are strings or ints of any type, such as `numpy.int64` or members of an Enum of either.
    Those of one text are one class.
    """
    given = _listed(labels)
    if len(given) != image_count:
        raise InputError(f"labels: expected one for each of {image_count} images, got {len(given)}")
    plain = [_plain(index, label) for index, label in enumerate(given)]
    if len({type(value) for value in plain}) > 1:
        raise InputError("labels: expected only strings or only ints, got both")
    first: dict[str | int, int] = {}
    for index, value in enumerate(plain):
        before = first.setdefault(value, index)
        if given[index] is not given[before] and given[index] != given[before]:
            raise InputError(
                f"labels {before} and {index}: expected different texts for different labels, got "
                f"{shown(given[before])} and {shown(given[index])}, both {shown(value)}"
            )
    ordered = sorted(first, key=lambda value: (isinstance(value, str), value))
    place = {value: index for index, value in enumerate(ordered)}
    return Classes(
        labels=tuple(cast(Label, given[first[value]]) for value in ordered),
        names=tuple(str(value) for value in ordered),
        indices=tuple(place[value] for value in plain),
    )


def label_array(labels: Sequence[Label]) -> npt.NDArray[np.generic]:
    """Return labels in an array whose `tolist()` has their values.

    Ints of up to 64 bits become int64, which can index and count. Else it has the dtype of
    NumPy's scalars where all are of one such type, or holds the labels themselves.
    """
    kinds = {type(label) for label in labels}
    if kinds <= {int, np.int64} and all(-(2**63) <= int(label) < 2**63 for label in labels):
        return np.array(labels, np.int64)
    if len(kinds) == 1 and issubclass(kind := kinds.pop(), np.integer | np.str_):
        array = np.array(labels)
        # Strings lose NULs at their ends in an array of strings.
        if array.dtype.type is kind and array.tolist() == list(labels):
            return array
    return np.fromiter(labels, object, len(labels))


def _listed(labels: object) -> list[object]:
    if isinstance(labels, np.ndarray) and labels.ndim != 1:
        flat = labels.size == max(labels.shape, default=0)
        remedy = "labels.ravel()" if flat else "labels.argmax(axis=1), if they are one-hot"
        raise InputError(
            f"labels: expected an array with one axis, got shape {labels.shape}; use {remedy}"
        )
    if isinstance(labels, str | bytes | Mapping | Set) or not isinstance(labels, Iterable):
        raise InputError(
            f"labels: expected a sequence with one label for each image, got {shown(labels)}"
        )
    return list(labels)


def _plain(index: int, label: object) -> str | int:
    """Return a label as a plain string or int."""
    if isinstance(label, str):
        return check_text(f"label {index}", label)
    if isinstance(label, int | np.integer) and not isinstance(label, bool | np.timedelta64):
        number = operator.index(label)
        if number.bit_length() <= _MOST_BITS:
            return number
        raise InputError(f"label {index}: expected an int of up to 256 digits, got a longer one")
    remedy = ""
    if isinstance(label, bytes):
        remedy = "; use label.decode()"
    elif isinstance(label, bool | np.bool_ | float | np.floating):
        remedy = "; use int(label) or str(label)"
    elif hasattr(label, "tolist"):  # an element of an array of PyTorch or the like
        remedy = "; use labels.tolist()"
    raise InputError(f"label {index}: expected a string or an int, got {shown(label)}{remedy}")
