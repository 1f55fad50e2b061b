from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kshot.trainer.errors import TrainingError
from kshot.trainer.evaluate.paired_differences import PAIRED_METHOD
from kshot.trainer.experiment import Arm, ArmTable, Experiment, Ordering, Panel
from kshot.trainer.experiment_result import result_document, verdicts, write_result
from kshot.trainer.experiment_run import ArmRun, Outcome, RunSettings
from kshot.trainer.experiment_scores import ArmScores, mean_score, read_scores, write_scores
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.statistics import T_METHOD, WILSON_METHOD


def outcome(name: str, *seeds: tuple[float, ...]) -> Outcome:
    recipe = load_recipe("omniglot-5way")
    runs = [
        ArmRun(seed, ArmScores("training", 10, {"support": values}))
        for seed, values in enumerate(seeds)
    ]
    return Outcome(Arm(name, name, name, ()), recipe, runs)


def experiment(*orderings: Ordering) -> Experiment:
    tables = tuple(ArmTable(name, name, ()) for name in ("a", "b"))
    panel = Panel("final", "at the end", "accuracy, %", "linear", ("a", "b"))
    return Experiment("e", "E", "An experiment", tables, (panel,), orderings)


START = outcome("start", (0.2, 0.2, 0.1, 0.3))
LOW, HIGH = outcome("a", (0.2, 0.4, 0.6, 0.8)), outcome("b", (0.3, 0.6, 0.7, 1.0))


@pytest.mark.parametrize(
    ("least", "holds"), [(0.0, True), (-0.05, True), (0.05, True), (0.06, False), (0.2, False)]
)
def test_a_claim_holds_when_the_whole_interval_is_above_it(least: float, holds: bool) -> None:
    """Differences are 0.1, 0.2, 0.1, 0.2: 0.15 ± 3.182 * 0.0577 / 2 = 0.0919, down to 0.0581."""
    (found,) = verdicts(experiment(Ordering("a < b", "a", "b", least)), (START, LOW, HIGH))

    difference = found.differences["support"]
    assert math.isclose(difference.mean, 0.15)
    assert math.isclose(difference.half_width, 0.0919, abs_tol=1e-4)
    assert difference.method == PAIRED_METHOD
    assert found.holds("support") == holds


def test_a_factor_multiplies_the_higher_one() -> None:
    claim = Ordering("a < b / 2", "a", "b", 0.0, 0.5)

    (found,) = verdicts(experiment(claim), (START, LOW, HIGH))

    assert math.isclose(found.differences["support"].mean, 0.325 - 0.5)
    assert not found.holds("support")


def test_seeds_are_averaged_over_each_task_and_told_one_by_one() -> None:
    low, high = outcome("a", (0.2, 0.4), (0.0, 0.4)), outcome("b", (0.4, 0.5), (0.2, 0.7))

    (found,) = verdicts(experiment(Ordering("a < b", "a", "b", 0.0)), (START, low, high))

    assert math.isclose(found.differences["support"].mean, 0.2)  # of 0.2 and 0.2
    assert [round(seed.mean, 12) for seed in found.by_seed["support"]] == [0.15, 0.25]


def test_a_claim_about_an_arm_that_was_not_run_is_left_out() -> None:
    claims = Ordering("a < b", "a", "b", 0.0), Ordering("start < a", "start", "a", 0.0)

    found = verdicts(experiment(*claims), (START, LOW))

    assert [verdict.ordering.text for verdict in found] == ["start < a"]


def test_accuracies_of_tasks_that_agree_have_an_interval_all_the_same() -> None:
    agreed = mean_score([ArmScores("t", 10, {"support": (1.0, 1.0)})], "support")
    spread = mean_score([ArmScores("t", 10, {"support": (0.9, 1.0)})], "support")
    errors = mean_score([ArmScores("t", 0, {"32_steps": (1.0, 2.0)})], "32_steps")

    assert (agreed.mean, agreed.method) == (1.0, WILSON_METHOD)
    assert agreed.half_width > 0
    assert (round(spread.mean, 12), spread.method) == (0.95, T_METHOD)
    assert (errors.mean, errors.method) == (1.5, T_METHOD)


def test_the_document_holds_settings_arms_and_claims(tmp_path: Path) -> None:
    claim = Ordering("a < b", "a", "b", 0.0)
    settings = RunSettings(tmp_path, None, "cpu", None, scale=0.5, overrides=("outer.seed=0",))

    document = json.loads(
        json.dumps(result_document(experiment(claim), settings, (START, LOW, HIGH)))
    )

    assert document["experiment"] == "e"
    assert document["settings"]["scale"] == 0.5
    assert document["settings"]["seeds"] == [0]
    assert document["queries_per_task"] == 10
    assert [arm["name"] for arm in document["arms"]] == ["start", "a", "b"]
    scores = document["arms"][1]["scores"]["support"]
    assert math.isclose(scores["mean"], 0.5)
    assert scores["ci_method"] == T_METHOD
    (ordering,) = document["orderings"]
    assert ordering["found"]["support"]["holds"] is True
    assert len(ordering["found"]["support"]["by_seed"]) == 1


def test_scores_are_read_for_the_same_training_and_tasks_alone(tmp_path: Path) -> None:
    scores = ArmScores("this", 5, {"support": [0.5, 1.0]})
    assert read_scores(tmp_path / "arm", "this") is None

    write_scores(tmp_path / "arm", scores)

    assert read_scores(tmp_path / "arm", "this") == scores
    assert read_scores(tmp_path / "arm", "another") is None
    (tmp_path / "arm" / "scores.json").write_text('{"identity": "this"}')
    assert read_scores(tmp_path / "arm", "this") is None


def test_a_disk_that_does_not_take_the_result_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"x\.json could not be written: No such file"):
        write_result(tmp_path / "none" / "x.json", {})
