from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from kshot.bundle import BatchNormMode, Head, Preconditioner, Scope
from kshot.server.request.options import Durability
from kshot.server.rpc.encode import choice_value
from kshot.v1 import adaptation_pb2 as wire


@pytest.mark.parametrize(
    ("words", "enum", "prefix"),
    [
        (BatchNormMode, wire.BatchNormMode, "BATCH_NORM_MODE"),
        (Preconditioner, wire.Preconditioner, "PRECONDITIONER"),
        (Head, wire.Head, "HEAD"),
        (Scope, wire.Scope, "SCOPE"),
        (Durability, wire.Durability, "DURABILITY"),
    ],
)
def test_choices_are_counted_as_on_the_wire(
    words: type[StrEnum],
    enum: Any,  # noqa: ANN401 -- an enumeration of the wire
    prefix: str,
) -> None:
    assert [enum.Name(choice_value(word)) for word in words] == [
        f"{prefix}_{word.name}" for word in words
    ]
    assert len(enum.keys()) == 1 + len(words)
