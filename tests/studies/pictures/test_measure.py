import os
from dataclasses import replace
from pathlib import Path

import pytest

from studies.pictures.contenders import Contender, Kind
from studies.pictures.measure import (
    Measured,
    SetRow,
    Trial,
    measure,
    one_core,
    parts_folder,
    result_rows,
)
from studies.pictures.sets import PictureSet, Task
from studies.pictures.solvers import Open, Solved

RIVAL = Contender("colours", "colours", Kind.RIVAL, "colour-lr")
SERVED = Contender("bundle", "bundle", Kind.SERVED, "")


@pytest.fixture
def trial(pictures: PictureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    row = SetRow("colours", "colours", "colours.tar", 3, (1,), 2, (5,), ("colours",))
    return Trial(row, 1, 5, pictures)


class Stopping:
    """Solves a number of tasks and stops; `asked` counts its tasks."""

    def __init__(self, most: int) -> None:
        self.most, self.asked = most, 0

    def solve(self, _task: Task) -> Solved:
        if self.asked == self.most:
            raise KeyboardInterrupt
        self.asked += 1
        return Solved(self.asked, "photos")

    @property
    def make(self) -> Open:
        return lambda _pictures: self


def test_stopped_run_goes_on_where_it_was(trial: Trial) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(trial, RIVAL, Stopping(3).make)
    (part,) = parts_folder().iterdir()
    with part.open("a") as file:
        file.write("[4, ")  # killed while it wrote
    rest, none = Stopping(2), Stopping(0)

    found = measure(trial, RIVAL, rest.make)

    assert rest.asked == 2
    assert found.correct == (1, 2, 3, 1, 2)
    assert found.chosen == {"photos": 5}
    assert measure(trial, RIVAL, none.make) == found
    assert measure(trial, RIVAL, Stopping(5).make, again=True).correct == (1, 2, 3, 4, 5)
    assert Measured.read(found.document()) == found


def test_key_tells_all_that_decides_answers(trial: Trial, pictures: PictureSet) -> None:
    other = Trial(trial.row, 1, 4, pictures)
    keys = {of.key(RIVAL) for of in (trial, other)} | {trial.key(SERVED)}
    few = replace(RIVAL, task_count=4)

    assert len(keys) == 3
    assert trial.key(few) == other.key(few) == other.key(RIVAL)  # the same first tasks


def test_few_tasks_are_the_first(trial: Trial) -> None:
    solver = Stopping(2)

    found = measure(trial, replace(RIVAL, task_count=2), solver.make)

    assert (found.correct, solver.asked) == ((1, 2), 2)


def test_bundles_are_compared_with_the_best_rival() -> None:
    measured = {
        "bundle": Measured("", (6, 5, 6), {}),
        "colours": Measured("", (6, 4, 4, 0), {}),
        "pixels": Measured("", (2, 2, 2, 6), {}),
    }
    contenders = {"bundle": SERVED, "colours": RIVAL, "pixels": RIVAL}

    served, *rivals = result_rows(measured, contenders, 6)

    assert served["accuracy"] == pytest.approx(17 / 18, abs=1e-5)
    assert (served["rival"], served["tasks"]) == ("colours", 3)
    assert served["ahead"] == pytest.approx(3 / 18, abs=1e-5)
    assert [row["ahead"] for row in rivals] == [None, None]
    alone = result_rows({"bundle": measured["bundle"]}, contenders, 6)
    assert alone[0]["ahead"] is None


def test_one_core_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = os.sched_getaffinity(0)

    with one_core():
        assert len(os.sched_getaffinity(0)) == 1
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.sched_getaffinity(0) == before
    assert os.environ["OMP_NUM_THREADS"] == "3"
