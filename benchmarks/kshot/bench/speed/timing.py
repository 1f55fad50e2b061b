"""Timing of several contenders in turns, so that a drift of the machine affects all of them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np
import torch

Result = TypeVar("Result")
Name = TypeVar("Name", str, int)

RATIO_METHOD = "median of the rounds' ratios"


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds that 50, 95 and 99 % of the samples do not exceed."""

    p50: float
    p95: float
    p99: float

    def cells(self, digits: int) -> tuple[str, ...]:
        """Return them as cells of a table."""
        return tuple(f"{value:.{digits}f}" for value in (self.p50, self.p95, self.p99))


def percentiles(samples_ms: Sequence[float]) -> Percentiles:
    """Interpolate percentiles between the nearest of at least one sample."""
    return Percentiles(*(float(value) for value in np.percentile(samples_ms, (50, 95, 99))))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the rounds' ratios: a drift that both share in a round cancels.

    Raises `ValueError` when the numbers of samples differ.
    """
    return median([above / below for above, below in zip(numerators, denominators, strict=True)])


def against_kshot(
    samples: Mapping[str, Sequence[float]],
    names: Iterable[str],
    unit: str,
    figure: Callable[[Sequence[float]], object],
) -> dict[str, object]:
    """Return each contender's figure and its ratio to kshot for JSON; None for an absent one.

    A ratio above 1 means that kshot is faster.
    """
    document: dict[str, object] = {}
    for name in names:
        values = samples.get(name)
        document[f"{name}_{unit}"] = figure(values) if values else None
        if name != "kshot":
            document[f"ratio_vs_{name}"] = ratio(values, samples["kshot"]) if values else None
    return document | {"ratio_method": RATIO_METHOD}


def turns(names: list[Name], rounds: int) -> Iterator[list[Name]]:
    """Yield the order of each round: it begins with the next name, so that none is always first."""
    for number in range(rounds):
        first = number % max(len(names), 1)
        yield names[first:] + names[:first]


def synchronized(work: Callable[..., Result], device: torch.device) -> Callable[..., Result]:
    """Make a function return when its work is done: a GPU only queues it."""
    if device.type != "cuda":
        return work

    def work_and_wait(*arguments: object) -> Result:
        result = work(*arguments)
        torch.cuda.synchronize(device)
        return result

    return work_and_wait


def interleave(
    contenders: Mapping[Name, Callable[[], object]], rounds: int, *, warm_up: int = 1
) -> dict[Name, list[float]]:
    """Time every contender once per round: milliseconds by name, in the order of the rounds.

    Each first runs `warm_up` times untimed. A contender on a GPU must be `synchronized`.
    """
    names = list(contenders)
    for name in names:
        for _ in range(warm_up):
            contenders[name]()
    samples: dict[Name, list[float]] = {name: [] for name in names}
    for order in turns(names, rounds):
        for name in order:
            started = time.perf_counter_ns()
            contenders[name]()
            samples[name].append((time.perf_counter_ns() - started) / 1e6)
    return samples
