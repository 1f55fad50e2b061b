"""Many processes of each contender; here they are this one, or scripted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kshot.__main__ import main
from kshot.bench.speed import all_cores
from kshot.bench.speed.all_cores import AllCores, all_at_once
from kshot.bench.speed.copies import Contenders, Copies


class Here(Copies):
    """Copies that run in this process, one after another."""

    contenders: Contenders

    def rate(self, name: str, count: int, seconds: float) -> float:
        assert seconds in {0.0, all_cores.ROUND_SECONDS}
        self.contenders[name]()
        return 10.0 * count


def test_rounds_begin_with_the_next_contender() -> None:
    class Scripted(Copies):
        def rate(self, name: str, count: int, _seconds: float) -> float:
            ran.append(name)
            return count * {"kshot": 20.0, "eager": 5.0}[name]

    ran: list[str] = []
    ways = (None, None)
    samples = all_at_once(Scripted((), ways), ["kshot", "eager"], 2)  # type: ignore[arg-type]  # their number counts

    assert ran == ["kshot", "eager", "kshot", "eager", "eager", "kshot"]
    assert samples == {"kshot": [25.0, 25.0], "eager": [100.0, 100.0]}


def test_figures_follow_from_the_samples() -> None:
    many = AllCores(2, {"kshot": [25.0, 20.0, 25.0], "eager": [100.0, 60.0, 50.0]})

    assert many.document(["kshot", "eager", "jax"]) == {
        "processes": 2,
        "kshot_per_second": 40.0,
        "eager_per_second": pytest.approx(1e3 / 60),
        "ratio_vs_eager": 3.0,
        "jax_per_second": None,
        "ratio_vs_jax": None,
        "ratio_method": "median of the rounds' ratios",
    }
    assert many.note({"kshot": "kshot", "eager": "plain"}) == (
        "2 processes of each, one thread each, adaptations a second: kshot 40.0, plain 16.7 "
        "(kshot x 3.00)."
    )


def test_the_command_measures_all_cores(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def running_here(make: Callable[[], Contenders], count: int) -> Iterator[Copies]:
        copies = Here((), (None,) * count)  # type: ignore[arg-type]  # their number counts
        object.__setattr__(copies, "contenders", make())
        yield copies

    monkeypatch.setattr(all_cores, "running_copies", running_here)
    quick = ["--step-count", "1", "--rounds", "1", "--device", "cpu", "--no-compile", "--no-jax"]

    assert main(["bench", "adapt", "--processes", "3", *quick, "--json"]) == 0

    told = json.loads(capsys.readouterr().out)["all_cores"]
    assert told["processes"] == 3
    for name in ("kshot", "eager", "eager_fused"):
        assert told[f"{name}_per_second"] == pytest.approx(30.0)
    assert told["ratio_vs_eager"] == 1.0
    assert told["jax_per_second"] is None
