import pytest

from kshot.learner.steps.tail_weight import WEIGHTS
from studies.pictures.tail.records import (
    FINE_WEIGHTS,
    TailTask,
    chosen_settings,
    left_out_settings,
    read_tasks,
    write_tasks,
)


def folded(
    losses: dict[float, float], correct: dict[float, int], likeness: float = 0.6
) -> TailTask:
    """Return a task of five examples: losses and right answers are 9 but for these weights."""
    return TailTask(
        likeness,
        head=9,
        weight=0.5,
        right=10,
        correct=tuple(correct.get(weight, 9) for weight in WEIGHTS),
        losses=tuple(losses.get(weight, 9.0) for weight in WEIGHTS),
        seconds=7.25,
    )


def alone(likeness: float, best: float) -> TailTask:
    """Return a task of one example that is answered better near a weight."""
    correct = tuple(10 if abs(weight - best) < 0.06 else 5 for weight in FINE_WEIGHTS)
    return TailTask(likeness, 5, best, 10, correct, (), 1.5)


def test_tasks_are_read_as_written() -> None:
    tasks = [folded({0.5: 4.125}, {0.5: 12}), alone(0.7, 0.3)]

    for task in tasks:
        assert read_tasks(write_tasks([task, task])) == [task, task]


def test_left_out_losses_decide_with_the_likeness() -> None:
    task = folded({0.5: 8.5, 2.0: 7.0}, {0.5: 12, 2.0: 15})

    # the prior weight is 0.1 / 2.0: the loss gains 0.5 and 2 nats, the pull takes 2 for each 1
    assert task.right_at(0.55, 2.0) == 9
    assert task.right_at(0.2, 4.0) == 15


def test_without_folds_the_likeness_decides() -> None:
    task = alone(likeness=0.7, best=0.3)

    assert task.right_at(0.55, 2.0) == 10
    assert task.right_at(0.7, 2.0) == 5
    assert task.right_at(0.2, 4.0) == 5


def test_a_set_has_no_part_in_its_own_settings() -> None:
    """Two sets want the weight 0.3 for a likeness of 0.7, the third 0.8 for one of 0.4."""
    sets = {"first": [alone(0.7, 0.3)], "second": [alone(0.7, 0.3)], "third": [alone(0.4, 0.8)]}

    chosen = left_out_settings([sets])

    assert chosen["third"] == chosen_settings([{"first": sets["first"]}])
    assert sets["first"][0].right_at(*chosen["third"]) == 10
    likeness, slope = chosen["third"]
    assert slope * (0.7 - likeness) == pytest.approx(0.3, abs=0.06)
