from __future__ import annotations

import json
import re

import pytest

from kshot.bundle.document import DocumentError, parse, plain
from kshot.server.access.limits import UNLIMITED, Limits
from kshot.v1 import adaptation_pb2 as wire

ALL = {
    "max_models": 3,
    "max_bytes": 10_000,
    "max_adapt_seconds": 1.5,
    "max_calls": 2,
    "models": ["tiny"],
}


def test_limits_survive_the_file() -> None:
    limits = parse(Limits, ALL)

    assert limits == Limits(3, 10_000, 1.5, 2, ("tiny",))
    assert parse(Limits, json.loads(json.dumps(plain(limits)))) == limits


def test_nothing_is_limited_by_default() -> None:
    assert parse(Limits, {}) == UNLIMITED
    assert (plain(UNLIMITED), UNLIMITED.on_wire()) == ({}, {})
    assert UNLIMITED.allows("anything")


def test_limits_name_fields_of_the_wire() -> None:
    message = wire.ServerLimits(**parse(Limits, ALL).on_wire())

    assert message.tenant_adapted_model_count == 3
    assert message.tenant_adapted_model_bytes == 10_000
    assert message.tenant_adapt_seconds == 1.5
    assert message.tenant_call_count == 2


def test_models_are_allowed_by_name() -> None:
    limits = Limits(models=("tiny",))

    assert limits.allows("tiny")
    assert not limits.allows("photos")
    assert not Limits(models=()).allows("tiny")


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (7, "the document: expected an object, got 7"),
        ({"max_model": 1}, "max_model: unknown key; expected one of max_models, max_bytes, "),
        ({"max_models": 0}, "max_models: expected an integer from 1 to 9007199254740992, got 0"),
        ({"max_models": True}, "max_models: expected an integer, got true"),
        ({"max_calls": 1.5}, "max_calls: expected an integer, got 1.5"),
        ({"max_adapt_seconds": 0}, "max_adapt_seconds: expected a number above 0"),
        ({"models": "tiny"}, "models: expected a list"),
        ({"models": [""]}, "models[0]: expected a match of"),
    ],
)
def test_what_is_wrong_is_named(document: object, problem: str) -> None:
    with pytest.raises(DocumentError, match=re.escape(problem)):
        parse(Limits, document)
