"""All cores against all cores: as many processes of each contender, one thread each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from kshot.bench.report import say
from kshot.bench.speed.adapt_contenders import in_process
from kshot.bench.speed.copies import Copies, running_copies
from kshot.bench.speed.timed_task import Size
from kshot.bench.speed.timing import against_kshot, ratio, turns

# A process that is done early leaves its core to others: this is long against an adaptation.
ROUND_SECONDS = 1.0


@dataclass(frozen=True)
class AllCores:
    """The rounds of so many processes of each contender: milliseconds per adaptation of them all.

    Two processes that take 50 ms for an adaptation each have 25 ms here.
    """

    processes: int
    samples: Mapping[str, Sequence[float]]

    def document(self, names: Sequence[str]) -> dict[str, object]:
        """Return adaptations a second of each name; a ratio above 1 means that kshot does more."""
        return {
            "processes": self.processes,
            **against_kshot(self.samples, names, "per_second", _per_second),
        }

    def note(self, titles: Mapping[str, str]) -> str:
        """Say the same in a sentence."""
        rates = (
            f"{titles[name]} {_per_second(samples):.1f}"
            + (f" (kshot x {self._ratio(samples):.2f})" if name != "kshot" else "")
            for name, samples in self.samples.items()
        )
        return (
            f"{self.processes} processes of each, one thread each, adaptations a second: "
            f"{', '.join(rates)}."
        )

    def _ratio(self, samples: Sequence[float]) -> float:
        return ratio(samples, self.samples["kshot"])


def measure_all_cores(
    bundle: Path, size: Size, processes: int, rounds: int, *, compiled: bool, with_jax: bool
) -> AllCores:
    """Let the processes of each contender adapt for a second, in turns; on CPUs.

    A step that is `compiled` must be in the cache. Raises `ClickException` when a process ends.
    """
    make = partial(in_process, bundle, size, "cpu", compiled=compiled, with_jax=with_jax)
    say(f"starting {processes} processes, then {rounds} rounds of each contender")
    names = ["kshot", "eager", "eager_fused", *(["jax"] if with_jax else [])]
    with running_copies(make, processes) as copies:
        return AllCores(processes, all_at_once(copies, names, rounds))


def all_at_once(copies: Copies, names: list[str], rounds: int) -> dict[str, list[float]]:
    """Let all processes run each contender in turns: milliseconds per run of them all."""
    samples: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        copies.warm_up(name)
    for order in turns(names, rounds):
        for name in order:
            samples[name].append(1e3 / copies.rate(name, len(copies.ways), ROUND_SECONDS))
    return samples


def _per_second(samples: Sequence[float]) -> float:
    return 1e3 / median(samples)
