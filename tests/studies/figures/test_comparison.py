from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot.trainer.evaluate.paired_differences import PAIRED_METHOD
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.statistics import T_METHOD, WILSON_METHOD
from studies.common.results import provenance, read_result, write_result
from studies.figures.comparison import figure_result, mean_score, orderings
from studies.figures.figure import Arm, Claim, Figure, Panel, RunSettings
from studies.figures.panels import draw_final
from studies.figures.training import Outcome


def arm(name: str) -> Arm:
    return Arm(name, name, (), name, name)


def outcome(name: str, *seeds: tuple[float, ...]) -> Outcome:
    return Outcome(
        arm(name),
        load_recipe("omniglot-5way"),
        10,
        {"support": np.array(seeds)},
        [[]] * len(seeds),
    )


def figure(*claims: Claim) -> Figure:
    panel = Panel(draw_final, "at the end", "accuracy, %", ("a", "b"))
    return Figure("f", "F", (panel,), claims)


CPU = torch.device("cpu")
START = outcome("start", (0.2, 0.2, 0.1, 0.3))
LOW, HIGH = outcome("a", (0.2, 0.4, 0.6, 0.8)), outcome("b", (0.3, 0.6, 0.7, 1.0))


@pytest.mark.parametrize(
    ("least", "holds"), [(0.0, True), (-0.05, True), (0.05, True), (0.06, False), (0.2, False)]
)
def test_claim_holds_if_the_whole_interval_is_above(least: float, holds: bool) -> None:
    """Differences are 0.1, 0.2, 0.1, 0.2: 0.15 ± 3.182 * 0.0577 / 2 = 0.0919, down to 0.0581."""
    (ordering,) = orderings(figure(Claim("a < b", "a", "b", least)), (START, LOW, HIGH))

    found = ordering["found"]["support"]
    assert math.isclose(found["mean"], 0.15)
    assert math.isclose(found["ci95"], 0.0919, abs_tol=1e-4)
    assert found["ci_method"] == PAIRED_METHOD
    assert found["holds"] == holds


def test_factor_multiplies_the_higher_score() -> None:
    claim = Claim("a < b / 2", "a", "b", factor=0.5)

    (ordering,) = orderings(figure(claim), (START, LOW, HIGH))

    assert math.isclose(ordering["found"]["support"]["mean"], 0.325 - 0.5)
    assert not ordering["found"]["support"]["holds"]


def test_seeds_are_averaged_per_task() -> None:
    low, high = outcome("a", (0.2, 0.4), (0.0, 0.4)), outcome("b", (0.4, 0.5), (0.2, 0.7))

    (ordering,) = orderings(figure(Claim("a < b", "a", "b")), (START, low, high))

    found = ordering["found"]["support"]
    assert math.isclose(found["mean"], 0.2)  # of 0.2 and 0.2
    assert [round(seed["mean"], 12) for seed in found["by_seed"]] == [0.15, 0.25]


def test_claim_without_its_arm_is_left_out() -> None:
    claims = Claim("a < b", "a", "b"), Claim("start < a", "start", "a")

    found = orderings(figure(*claims), (START, LOW))

    assert [ordering["text"] for ordering in found] == ["start < a"]


def test_equal_accuracies_have_an_interval() -> None:
    agreed = mean_score(np.array([[1.0, 1.0]]), 10)
    spread = mean_score(np.array([[0.9, 1.0]]), 10)
    errors = mean_score(np.array([[1.0, 2.0]]), 0)

    assert (agreed.mean, agreed.method) == (1.0, WILSON_METHOD)
    assert agreed.half_width > 0
    assert (round(spread.mean, 12), spread.method) == (0.95, T_METHOD)
    assert (errors.mean, errors.method) == (1.5, T_METHOD)


def test_result_holds_settings_arms_and_claims(tmp_path: Path) -> None:
    settings = RunSettings(tmp_path, None, CPU, None, scale=0.5, overrides=("outer.seed=0",))
    made_with = provenance("python x.py", seeds=[0], device=CPU)
    diverged = replace(HIGH, query_count=0, scores={"support": np.full((1, 4), math.nan)})
    path = tmp_path / "f.json"

    claim = Claim("a < b", "a", "b")
    write_result(path, figure_result(figure(claim), settings, (START, LOW, HIGH), made_with))
    result = read_result(path)
    write_result(path, figure_result(figure(), settings, (START, diverged), made_with))

    assert (result.study, result.name, result.settings["scale"]) == ("figures", "f", 0.5)
    assert [row["name"] for row in result.rows] == ["start", "a", "b"]
    scores = result.rows[1]["scores"]["support"]
    assert (math.isclose(scores["mean"], 0.5), scores["ci_method"]) == (True, T_METHOD)
    assert result.more["queries_per_task"] == 10
    (ordering,) = result.more["orderings"]
    assert ordering["found"]["support"]["holds"] is True
    assert len(ordering["found"]["support"]["by_seed"]) == 1
    assert read_result(path).rows[1]["scores"]["support"]["mean"] is None
