"""Support sets that change: what is sent, and the labels of what comes back."""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo

from kshot.client import Client, InputError, InvalidArgumentError
from kshot.client.exchange.revision import revised_labels
from kshot.client.labels import read_labels
from kshot.v1 import adaptation_pb2 as wire

if TYPE_CHECKING:
    from conftest import FakeServicer

IMAGES = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
PETS = ["cat", "dog", "dog", "cat"]


def last(servicer: FakeServicer) -> wire.ReviseAdaptedModelRequest:
    request = servicer.requests[-1]
    assert isinstance(request, wire.ReviseAdaptedModelRequest)
    return request


def test_a_revision_sends_what_changes(client: Client, servicer: FakeServicer) -> None:
    adapted = client.adapt(IMAGES, PETS)
    revised = adapted.revise(
        add=(IMAGES[:3], ["owl", "cat", "owl"]),
        relabel={np.int64(1): "cat", 2: "fox"},  # type: ignore[dict-item]  # an index of NumPy
        remove=np.array([0, 3]),
        seed=7,
    )

    request = last(servicer)
    assert request.adapted_model == adapted.id
    assert list(request.removed_indices) == [0, 3]
    assert [(each.index, each.class_name) for each in request.relabellings] == [
        (1, "cat"), (2, "fox"),
    ]  # fmt: skip
    assert list(request.added.class_names) == ["cat", "owl"]
    assert list(request.added.class_indices) == [1, 0, 1]
    assert request.added.images.tensor.data == IMAGES[:3].tobytes()
    assert request.options == wire.AdaptOptions(seed=7)
    assert (request.etag, uuid.UUID(request.request_id).version) == ("", 4)
    assert (revised.description.parent, revised.description.support_count) == (adapted.id, 5)
    assert revised.report is not None
    assert revised.report.deduplicated


def test_a_revision_may_set_options_alone(client: Client, servicer: FakeServicer) -> None:
    name = client.adapt(IMAGES, PETS).id
    own = uuid.UUID(int=5)
    client.revise(name, head="zero", etag="e", request_id=str(own), timeout=5)

    assert last(servicer) == wire.ReviseAdaptedModelRequest(
        adapted_model=name,
        options=wire.AdaptOptions(head=wire.HEAD_ZERO),
        etag="e",
        request_id=str(own),
    )
    assert servicer.remaining[-1] < 5.1


class Pet(enum.StrEnum):
    CAT = "cat"
    DOG = "dog"


def test_labels_stay_as_they_were_given(client: Client) -> None:
    """Those of the handle first, then the new ones; one that was looked up answers names."""
    adapted = client.adapt(IMAGES, [Pet.CAT, Pet.DOG] * 2)
    revised = adapted.revise(add=(IMAGES[:2], ["cat", "owl"]), relabel={0: np.str_("dog")})

    assert revised.labels is not None
    assert list(map(type, revised.labels)) == [Pet, Pet, str]
    assert revised.labels == ("cat", "dog", "owl")
    assert client.revise(adapted.id, remove=[0]).labels is None
    assert client.adapt(IMAGES, [3, 4, 3, 4]).revise(add=(IMAGES[:1], [9])).labels == (3, 4, 9)


def test_labels_that_nobody_knows_are_names() -> None:
    """A server may answer with others than were asked for."""
    known = {"1": 1, "2": 2}
    new = read_labels([3], 1)

    assert revised_labels(["2", "3"], known, new) == (2, 3)
    assert revised_labels(["2", "5"], known, new) is None
    assert revised_labels(["2"], None, new) is None


@pytest.mark.parametrize(
    ("add", "relabel", "remove", "words"),
    [
        (IMAGES, None, [], "add: expected a pair (images, labels), got array("),
        ((IMAGES,), None, [], "add: expected a pair (images, labels), got ("),
        ((IMAGES, ["a"]), None, [], "labels: expected one for each of 4 images, got 1"),
        ((IMAGES, [1, 2, 3, 4]), None, [], "labels: expected only strings or only ints, with"),
        (None, {0: 1}, [], "labels: expected only strings or only ints, with those of the adap"),
        (None, ["cat"], [], "relabel: expected a mapping of index to label, got ['cat']"),
        (None, {"0": "cat"}, [], "relabel: expected a whole number, got '0'"),
        (None, {-1: "cat"}, [], "relabel: expected an index from 0, got -1"),
        (None, {0: None}, [], "relabel: label 0: expected a string or an int, got None"),
        (None, None, [True], "remove: expected a whole number, got True"),
        (None, None, np.array([True, False]), "remove: expected a whole number, got np.True_"),
        (None, None, [2**40], "remove: expected a whole number from -2147483648"),
        (None, None, 3, "remove: expected indices, got 3"),
        (None, None, "12", "remove: expected indices, got '12'"),
    ],
)
def test_what_cannot_be_revised_is_named(
    client: Client,
    servicer: FakeServicer,
    add: Any,  # noqa: ANN401 -- right and wrong ones
    relabel: Mapping[int, str],
    remove: Iterable[int],
    words: str,
) -> None:
    adapted = client.adapt(IMAGES, PETS)
    with pytest.raises(InputError, match=re.escape(words)):
        adapted.revise(add=add, relabel=relabel, remove=remove)

    assert len(servicer.requests) == 1


def test_a_refused_example_is_named(client: Client, servicer: FakeServicer) -> None:
    adapted = client.adapt(IMAGES, PETS)
    bad = BadRequest()
    bad.field_violations.add(field="added.images.encoded.items[0]", description="is damaged")
    bad.field_violations.add(field="added.class_names[0]", description="is long")
    info = ErrorInfo(reason="INVALID_REQUEST", domain="kshot")
    servicer.refuse(Code.INVALID_ARGUMENT, "no", info, bad)

    with pytest.raises(InvalidArgumentError) as caught:
        adapted.revise(add=([b"no image"], ["owl"]))

    assert [each.subject for each in caught.value.violations] == ["image 0", "label 'owl'"]
