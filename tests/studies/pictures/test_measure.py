import os
from pathlib import Path

import pytest

from studies.pictures.contenders import Contender, Kind, Open, Solved
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

RIVAL = Contender("colours", "colours", Kind.RIVAL, "colour-lr")
SERVED = Contender("bundle", "bundle", Kind.SERVED, "")


@pytest.fixture
def trial(pictures: PictureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    row = SetRow("colours", "colours", "colours.tar", 3, (1,), 2, 5, ("colours",))
    return Trial(row, 1, 5, pictures)


class Stopping:
    """Solves a number of tasks and stops; `asked` counts its tasks."""

    def __init__(self, most: int) -> None:
        self.most, self.asked = most, 0

    def solve(self, _task: Task) -> Solved:
        if self.asked == self.most:
            raise KeyboardInterrupt
        self.asked += 1
        return Solved(self.asked, 2.0, 1.0)

    @property
    def make(self) -> Open:
        return lambda _pictures: self


def test_stopped_run_goes_on_where_it_was(trial: Trial) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(trial, RIVAL, Stopping(3).make)
    (part,) = parts_folder().iterdir()
    with part.open("a") as file:
        file.write("[4, 2.")  # killed while it wrote
    rest, none = Stopping(2), Stopping(0)

    found = measure(trial, RIVAL, rest.make)

    assert rest.asked == 2
    assert found.correct == (1, 2, 3, 1, 2)
    assert measure(trial, RIVAL, none.make) == found
    assert measure(trial, RIVAL, Stopping(5).make, again=True).correct == (1, 2, 3, 4, 5)
    assert Measured.read(found.document()) == found


def test_key_tells_all_that_decides_answers(trial: Trial, pictures: PictureSet) -> None:
    other = Trial(trial.row, 1, 4, pictures)
    keys = {of.key(RIVAL) for of in (trial, other)} | {trial.key(SERVED)}

    assert len(keys) == 3


def test_bundles_are_compared_with_the_best_rival() -> None:
    measured = {
        "bundle": Measured("", (6, 5, 6), 9.0, 1.0),
        "colours": Measured("", (6, 4, 4), 2.0, 0.5),
        "pixels": Measured("", (2, 2, 2), 2.0, 0.5),
    }
    contenders = {"bundle": SERVED, "colours": RIVAL, "pixels": RIVAL}

    served, *rivals = result_rows(measured, contenders, 6)

    assert served["accuracy"] == pytest.approx(17 / 18, abs=1e-5)
    assert (served["rival"], served["adapt_ms"]) == ("colours", 9.0)
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
