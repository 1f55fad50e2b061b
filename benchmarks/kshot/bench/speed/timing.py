"""Timing of several contenders side by side, so that a drift of the machine meets them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

__all__ = ["Percentiles", "interleave", "median", "percentiles", "ratio"]


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds that 50, 95 and 99 % of the samples do not exceed."""

    p50: float
    p95: float
    p99: float

    def document(self) -> dict[str, float]:
        """Lay out the percentiles for JSON."""
        return asdict(self)


def percentiles(samples_ms: Sequence[float]) -> Percentiles:
    """Interpolate percentiles between the nearest samples; raises ``ValueError`` without any."""
    if not samples_ms:
        raise ValueError("percentiles of 0 samples, wanted at least 1")
    return Percentiles(*(float(value) for value in np.percentile(samples_ms, (50, 95, 99))))


def median(samples: Sequence[float]) -> float:
    """Return the middle sample; raises ``ValueError`` without any."""
    return percentiles(samples).p50


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of each round's ratio: a drift that both meet in a round cancels.

    Raises ``ValueError`` when there are not equally many samples.
    """
    return median([above / below for above, below in zip(numerators, denominators, strict=True)])


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, list[float]]:
    """Time every contender once per round: milliseconds by name, in the order of the rounds.

    Each first runs ``warm_up`` times untimed. Every round begins with the next contender, so that
    none always follows the same neighbour. A contender that computes on a GPU waits for it itself.
    """
    names = list(contenders)
    for name in names:
        for _ in range(warm_up):
            contenders[name]()
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % max(len(names), 1)
        for name in names[first:] + names[:first]:
            started = time.perf_counter_ns()
            contenders[name]()
            samples[name].append((time.perf_counter_ns() - started) / 1e6)
        report(number + 1, rounds)
    return samples
