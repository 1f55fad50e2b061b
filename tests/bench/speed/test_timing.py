"""How samples are taken and summed up."""

from __future__ import annotations

import pytest

from kshot.bench.speed.timing import Percentiles, interleave, median, percentiles, ratio


def test_percentiles_lie_between_the_nearest_samples() -> None:
    samples = [float(value) for value in range(101, 0, -1)]

    assert percentiles(samples) == Percentiles(51.0, 96.0, 100.0)
    assert percentiles([1.0, 2.0]) == Percentiles(1.5, 1.95, 1.99)
    assert percentiles([7.0]).document() == {"p50": 7.0, "p95": 7.0, "p99": 7.0}


def test_nothing_has_no_percentiles() -> None:
    with pytest.raises(ValueError, match="0 samples"):
        percentiles([])


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """One slow round, in which both were slow, does not change it."""
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert ratio([4.0, 400.0, 4.0], [2.0, 200.0, 1.0]) == 2.0
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_contenders_take_turns_and_the_first_of_a_round_changes() -> None:
    calls: list[str] = []
    told: list[tuple[int, int]] = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}

    samples = interleave(
        contenders, 4, warm_up=2, report=lambda done, total: told.append((done, total))
    )

    assert "".join(calls) == "aabbcc" + "abc" + "bca" + "cab" + "abc"
    assert {name: len(values) for name, values in samples.items()} == {"a": 4, "b": 4, "c": 4}
    assert min(min(values) for values in samples.values()) >= 0
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_sample_is_the_time_of_one_call_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1_000_000, 3_000_000, 10_000_000, 17_500_000])
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(ticks))

    assert interleave({"a": lambda: None}, 2, warm_up=0) == {"a": [2.0, 7.5]}
