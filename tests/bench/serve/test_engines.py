"""`kshot bench engines`: its arithmetic, and the command with the server that tests share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest

from kshot.__main__ import main
from kshot.bench.serve import engines
from kshot.bench.serve.engine_turns import EngineCount, compare
from kshot.bench.serve.server_process import ServerProcess
from kshot.bench.speed.copies import Contenders, Copies
from kshot.client import Client


def test_gains_are_compared_turn_by_turn() -> None:
    of_servers = {1: [10.0, 20.0, 10.0], 2: [18.0, 30.0, 20.0]}
    of_copies = {1: [10.0, 10.0, 10.0], 2: [20.0, 15.0, 16.0]}

    first, second = compare(of_servers, of_copies)

    assert first == EngineCount(1, 10.0, 10.0, gain=1.0, copies_gain=1.0, gain_ratio=1.0)
    assert second.adaptations_per_second == 20.0
    assert second.copies_per_second == 16.0
    assert second.gain == pytest.approx(1.8)
    assert second.copies_gain == pytest.approx(1.6)
    assert second.gain_ratio == pytest.approx(1.0)  # of 0.9, 1.0 and 1.25


class Scripted(Copies):
    """Copies of which each adapts ten times a second."""

    def rate(self, name: str, count: int, seconds: float) -> float:
        assert name == "kshot"
        assert seconds in {0.0, 0.1}
        return 10.0 * count


def test_the_command_takes_turns(
    server: ServerProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared server stands for both: `test_server_process` holds how many engines one has."""
    asked: list[int] = []

    def running_server(*_: object, engines: int) -> nullcontext[ServerProcess]:
        asked.append(engines)
        return nullcontext(server)

    @contextmanager
    def running_copies(make: Callable[[], Contenders], count: int) -> Iterator[Copies]:
        assert count == 3
        assert make()["kshot"]()
        yield Scripted((), (None,) * count)  # type: ignore[arg-type]  # their number counts

    monkeypatch.setattr(engines, "running_server", running_server)
    monkeypatch.setattr(engines, "running_copies", running_copies)
    quick = ["--way", "2", "--step-count", "1", "--seconds", "0.2", "--turns", "2"]
    words = ["--engines", "3,1", "--callers", "2", "--device", "cpu", *quick]

    assert main(["bench", "engines", *words, "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert asked == [1, 3]
    first, second = document["engines"]
    assert [first["engines"], second["engines"]] == [1, 3]
    assert first["gain"] == first["copies_gain"] == first["gain_ratio"] == 1.0
    assert first["adaptations_per_second"] > 0
    assert second["copies_gain"] == pytest.approx(3.0)
    assert second["gain_ratio"] > 0
    assert document["plan"] == {"callers": 2, "seconds": 0.2, "turns": 2}
    assert document["workload"]["batch_size"] == 5
    with Client(server.address, timeout=60) as client:
        assert list(client.list()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engines", "0"], "expected integers from 1 to 10000 between commas"),
        (["--callers", "0"], "0 is not in the range x>=1"),
        (["--step-count", "201"], "--step-count: expected at most 200"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "engines", "--device", "cpu", *arguments]) == 2

    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
