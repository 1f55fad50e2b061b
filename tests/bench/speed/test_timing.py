"""How samples are taken and summed up."""

from __future__ import annotations

import pytest

from kshot.bench.speed.timing import Percentiles, interleave, percentiles, ratio


def test_percentiles_lie_between_the_nearest_samples() -> None:
    samples = [float(value) for value in range(101, 0, -1)]

    assert percentiles(samples) == Percentiles(51.0, 96.0, 100.0)
    assert percentiles([1.0, 2.0]) == Percentiles(1.5, 1.95, 1.99)
    assert percentiles([7.0]) == Percentiles(7.0, 7.0, 7.0)


def test_a_ratio_is_the_median_over_rounds() -> None:
    """One slow round, in which both were slow, does not change it."""
    assert ratio([4.0, 400.0, 4.0], [2.0, 200.0, 1.0]) == 2.0
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}

    samples = interleave(contenders, 4, warm_up=2)

    assert "".join(calls) == "aabbcc" + "abc" + "bca" + "cab" + "abc"
    assert {name: len(values) for name, values in samples.items()} == {"a": 4, "b": 4, "c": 4}
    assert min(min(values) for values in samples.values()) >= 0


def test_samples_are_milliseconds_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1_000_000, 3_000_000, 10_000_000, 17_500_000])
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(ticks))

    assert interleave({"a": lambda: None}, 2, warm_up=0) == {"a": [2.0, 7.5]}
