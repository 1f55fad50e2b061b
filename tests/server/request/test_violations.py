from __future__ import annotations

import pytest

from kshot.server.errors import InvalidRequest
from kshot.server.request.violations import Violations
from kshot.server.rpc.status import message_of, trailers_of


def test_violations_are_bounded_however_many_they_are() -> None:
    violations = Violations()
    for index in range(10_000):
        violations.add(f"field[{index}]", "\N{SNOWMAN}" * 1000)

    with pytest.raises(InvalidRequest) as caught:
        violations.check()

    size = sum(len(value) for _, value in trailers_of(caught.value, "r"))
    assert size + 3 * len(message_of(caught.value).encode()) < 7000
    assert "further violations" in caught.value.violations[-1].description


def test_no_violations_are_no_error() -> None:
    Violations().check()
