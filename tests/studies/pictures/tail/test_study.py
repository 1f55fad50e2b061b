"""A run that may be stopped: its order, what it keeps, and the result of it."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from kshot.bundle import builtin_bundle, load_bundle
from kshot.trainer.errors import DataError
from studies.common.results import read_result, result_path
from studies.pictures.gathered import STUDY
from studies.pictures.measure import read_set_rows
from studies.pictures.tail.records import FINE_WEIGHTS, TailTask, read_tasks
from studies.pictures.tail.result import KEPT, SHIPPED, TAILS
from studies.pictures.tail.study import Key, Part, command, order, write

SETS = list(read_set_rows(table="pictures"))
TASK = TailTask(0.6, 5, 0.3, 7, (7,) * len(FINE_WEIGHTS), (), 1.5)


def test_any_beginning_has_all_sets_alike() -> None:
    begun = list(order(["waste", "grocery"], (1, 5), 0, 2))[:9]

    assert begun == [
        *(("waste", 1, 0), ("grocery", 1, 0), ("waste", 1, 1), ("grocery", 1, 1)),
        *(("waste", 5, 0), ("grocery", 5, 0)),
        *(("waste", 1, 2), ("grocery", 1, 2), ("waste", 1, 3)),
    ]


def test_the_result_is_of_the_tasks_that_all_sets_have(tmp_path: Path) -> None:
    part, bundle = Part(tmp_path / "part.jsonl"), load_bundle(builtin_bundle("drawings"))
    with pytest.raises(DataError, match="measure first"):
        write(part, bundle, tmp_path)
    for number in range(3):
        for name in SETS[: 5 if number == 1 else None]:
            part.add(Key(name, 1, number, "20-steps", SHIPPED), TASK)

    write(part, bundle, tmp_path)
    result = read_result(result_path(STUDY, TAILS, tmp_path))

    assert len(result.rows) == len(SETS) + 2
    assert {row["tasks"] for row in result.rows} == {2}
    assert result.rows[-1]["trial"] == "common-1shot"
    assert result.rows[-1]["ahead"] == pytest.approx(2 / 75, abs=1e-5)
    assert read_tasks(result.more[KEPT]["waste-1shot 20-steps"]) == [TASK, TASK]


def test_a_killed_runs_last_line_does_not_count(tmp_path: Path) -> None:
    part = Part(tmp_path / "part.jsonl")
    first, second = (Key("waste", 5, number, "folds-of-12", SHIPPED) for number in (0, 1))
    part.add(first, TASK)
    with part.path.open("a") as file:
        file.write('[["waste", 5, 1')

    assert part.read() == {first: TASK}
    part.mend()
    part.add(second, TASK)
    assert list(part.read()) == [first, second]


def test_unknown_plans_are_refused() -> None:
    refused = CliRunner().invoke(command, ["--plans", "20-steps,none"])

    assert refused.exit_code == 2
    assert "--plans: expected some of 10-steps" in refused.stderr
