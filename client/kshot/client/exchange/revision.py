"""Changes of an adapted model's support set, and the labels of what they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kshot.client.encoding import encode_support
from kshot.client.errors import InputError
from kshot.client.inputs import Gathered, Images, gather
from kshot.client.labels import Classes, Label, Labels, read_labels
from kshot.client.values import check_whole, shown
from kshot.v1 import adaptation_pb2 as wire

_NO_CLASSES = Classes((), (), ())


@dataclass(frozen=True)
class Revision:
    """Examples to add, to give another class and to leave out, by their indices.

    `added` has the images and `labels` their labels; `classes` are those of `relabelled`, whose
    keys are indices.
    """

    added: Gathered | None
    labels: Labels
    relabelled: tuple[int, ...]
    classes: Classes
    removed: tuple[int, ...]

    def encode(self, side: int = 0) -> tuple[wire.ReviseAdaptedModelRequest, Classes]:
        """Write a request without the model's name, and return the classes that were added.

        A `side` above 0 bounds the shorter side of images, as in `encode_images`.
        """
        request = wire.ReviseAdaptedModelRequest(removed_indices=self.removed)
        for index, place in zip(self.relabelled, self.classes.indices, strict=True):
            request.relabellings.add(index=index, class_name=self.classes.names[place])
        if self.added is None:
            return request, _NO_CLASSES
        support, classes = encode_support(self.added, self.labels, side)
        request.added.CopyFrom(support)
        return request, classes


def read_revision(
    add: tuple[Images, Labels] | None, relabel: Mapping[int, Label] | None, remove: Iterable[int]
) -> Revision:
    """Check what callers give, before anything is sent; raise `InputError`."""
    added: Gathered | None = None
    labels: Labels = []
    if add is not None:
        if not isinstance(add, tuple | list) or len(add) != 2:
            raise InputError(f"add: expected a pair (images, labels), got {shown(add)}")
        added, labels = gather(add[0], "images"), add[1]
    if relabel is not None and not isinstance(relabel, Mapping):
        raise InputError(f"relabel: expected a mapping of index to label, got {shown(relabel)}")
    given = {_index("relabel", index): label for index, label in (relabel or {}).items()}
    if isinstance(remove, str | bytes | Mapping) or not isinstance(remove, Iterable):
        raise InputError(f"remove: expected indices, got {shown(remove)}")
    try:
        classes = read_labels(list(given.values()), len(given))
    except InputError as error:
        raise InputError(f"relabel: {error}") from error
    removed = tuple(_index("remove", index) for index in remove)
    return Revision(added, labels, tuple(given), classes, removed)


def check_kinds(known: Mapping[str, Label] | None, *new: Classes) -> None:
    """Raise `InputError` where strings and ints would come together; `known` as below."""
    labels = [*(known or {}).values(), *(label for classes in new for label in classes.labels)]
    if len({isinstance(label, str) for label in labels}) > 1:
        raise InputError(
            "labels: expected only strings or only ints, with those of the adapted model, got both"
        )


def revised_labels(
    class_names: Sequence[str], known: Mapping[str, Label] | None, *new: Classes
) -> tuple[Label, ...] | None:
    """Return the caller's labels of a revised model's classes, None where they are not known.

    `known` are those of the model before, by the names of their classes, `new` what the revision
    names.
    """
    if known is None:
        return None
    named = {
        name: label
        for classes in reversed(new)
        for name, label in zip(classes.names, classes.labels, strict=True)
    } | dict(known)
    if not named.keys() >= set(class_names):
        return None
    return tuple(named[name] for name in class_names)


def _index(name: str, value: object) -> int:
    index = check_whole(name, value, 32)
    if index < 0:
        raise InputError(f"{name}: expected an index from 0, got {index}")
    return index
