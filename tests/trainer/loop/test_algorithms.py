from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.trainer.loop.algorithms import Algorithm, algorithm_of
from kshot.trainer.recipe.recipe import Outer

OUTER = Outer("reptile", "sgd", 1.0, 0.0, 1, 10, "serial", 0)


@pytest.mark.parametrize(
    ("name", "weights", "second_order"),
    [
        ("reptile", (1.0, 1.0, 1.0), False),
        ("fomaml", (0.0, 0.0, 1.0), False),
        ("maml", (0.0, 0.0, 1.0), True),
    ],
)
def test_an_algorithm_is_how_often_each_gradient_counts(
    name: str, weights: tuple[float, ...], second_order: bool
) -> None:
    assert algorithm_of(replace(OUTER, algorithm=name), 3) == Algorithm(weights, second_order)


def test_with_one_step_all_algorithms_count_it_once() -> None:
    """Joint training is what all of them are then."""
    for name in ("reptile", "joint", "fomaml", "maml"):
        assert algorithm_of(replace(OUTER, algorithm=name), 1).weights == (1.0,)


def test_a_recipe_may_weigh_the_gradients_as_it_likes() -> None:
    """As the curves of the paper's Figure 3: here half of g_1 + g_2."""
    outer = replace(OUTER, algorithm="weighted", gradient_weights=(0.5, 0.5))

    assert algorithm_of(outer, 2) == Algorithm((0.5, 0.5))


@pytest.mark.parametrize(
    ("weights", "runs"),
    [
        ((1.0, 1.0, 1.0), [(1.0, slice(0, 3))]),
        ((0.0, 0.0, 1.0), [(0.0, slice(0, 2)), (1.0, slice(2, 3))]),
        ((1.0, 0.0, 0.0, 1.0), [(1.0, slice(0, 1)), (0.0, slice(1, 3)), (1.0, slice(3, 4))]),
        ((2.0,), [(2.0, slice(0, 1))]),
    ],
)
def test_runs_are_neighbours_that_weigh_the_same(
    weights: tuple[float, ...], runs: list[tuple[float, slice]]
) -> None:
    assert list(Algorithm(weights).runs()) == runs


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=8))
def test_runs_cover_every_step_once_in_order(weights: list[float]) -> None:
    runs = list(Algorithm(tuple(weights)).runs())

    spread = [weight for weight, steps in runs for _ in range(steps.start, steps.stop)]
    assert spread == weights
    assert [steps.start for _, steps in runs] == [0, *(steps.stop for _, steps in runs[:-1])]
    assert all(one != other for (one, _), (other, _) in pairwise(runs))
