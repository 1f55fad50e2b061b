from __future__ import annotations

import math

import pytest

from kshot.server.request.renewal import Renewal
from kshot.server.request.violations import Violations


def fields(renewal: Renewal) -> list[str]:
    violations = Violations()
    renewal.end(1000.0, 60.0, violations)
    return [violation.field for violation in violations._found]


@pytest.mark.parametrize(
    ("renewal", "end"),
    [
        (Renewal(1060.0, None), 1060.0),
        (Renewal(None, 60.0), 1060.0),
        (Renewal(1000.001, None, ("expire_time",)), 1000.001),
    ],
)
def test_the_time_is_given_or_counted_from_now(renewal: Renewal, end: float) -> None:
    assert renewal.end(1000.0, 60.0, Violations()) == end
    assert fields(renewal) == []


@pytest.mark.parametrize("ttl", [0.0, -1.0, 60.1, math.inf, math.nan])
def test_a_time_to_live_has_limits(ttl: float) -> None:
    assert fields(Renewal(None, ttl)) == ["ttl"]


def test_long_times_are_told_in_days() -> None:
    violations = Violations()
    Renewal(None, 5184000.0).end(1000.0, 2592000.0, violations)
    Renewal(5185000.0, None).end(1000.0, 2592000.0, violations)

    days = "2592000 s (30 days)", "5184000 s (60 days)"
    assert [each.description for each in violations._found] == [
        "expected above 0 and at most {}, got {}".format(*days),
        "expected a time in the future, at most {} from now, got {} from now".format(*days),
    ]


@pytest.mark.parametrize("time", [1000.0, -5.0, 1060.1, math.nan])
def test_a_time_is_in_the_future_and_not_too_far(time: float) -> None:
    assert fields(Renewal(time, None)) == ["expire_time"]


def test_other_paths_and_none_are_refused() -> None:
    assert fields(Renewal(None, None, ("options", "*"))) == [
        "update_mask",
        "update_mask",
        "expire_time",
    ]
