"""Short forms of the proofs of `studies/reliability`, on the server that these tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from studies.reliability.callers import Callers
from studies.reliability.fuzz.calls import fuzz_calls
from studies.reliability.kills import kill_often
from studies.reliability.ledger import Ledger
from studies.reliability.proof import measure_tasks
from studies.reliability.served import Served, serving
from studies.reliability.soak import soak
from studies.reliability.storms import KINDS, storm
from studies.reliability.tasks import Task
from studies.reliability.upgrade import upgrade_often


@pytest.fixture(scope="module")
def served(server: Any) -> Served:  # noqa: ANN401 -- a running server
    return Served(server.log.parent, (), address=server.address, process=server.process)


@pytest.fixture(scope="module")
def tasks(served: Served) -> Sequence[Task]:
    return measure_tasks(served.address, 6)


def test_everyone_gets_answers_of_their_own(served: Served, tasks: Sequence[Task]) -> None:
    ledger = Ledger()

    asyncio.run(Callers(served.address, tasks, ledger, 64).run(400, 0))

    assert ledger.faults == []
    assert min(ledger.counts[name] for name in ("adapt", "predict", "delete", "gone")) > 5


@pytest.mark.parametrize("name", KINDS)
def test_a_storm_leaves_nothing(served: Served, tasks: Sequence[Task], name: str) -> None:
    faults: list[str] = []

    row = storm(served, tasks, name, 60, faults, 32)

    assert faults == []
    assert row["count"] >= 60


def test_a_short_soak(served: Served, tasks: Sequence[Task]) -> None:
    faults: list[str] = []

    row = soak(served, tasks, 2, 4, faults)

    assert faults == []
    assert row["requests"] > 10


def test_no_bytes_break_a_call(served: Served, tasks: Sequence[Task]) -> None:
    faults: list[str] = []

    outcomes = asyncio.run(fuzz_calls(served, tasks, 1000, 0, faults))

    assert faults == []
    assert outcomes.pop("past parsing") > 300


def test_kills_lose_nothing(path_without_compiler: str, tmp_path: Path) -> None:
    """First an engine dies, then the front, whose engine has to leave."""
    faults: list[str] = []
    flags = ("--cache-bytes", "1000000")
    with serving(Served(tmp_path, ["omniglot"], flags, path_without_compiler)) as served:
        row = kill_often(served, measure_tasks(served.address, 4), 0, 2, 8, faults)

    assert faults == []
    assert row["checked"] > 10


def test_upgrades_change_no_answer(path_without_compiler: str, tmp_path: Path) -> None:
    faults: list[str] = []

    row = upgrade_often(tmp_path, 0, (4, 6, 1), faults, path_without_compiler)

    assert faults == []
    assert min(row["adapted"], row["answered"]) > 5
