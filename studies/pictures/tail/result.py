"""The result of adapted tails: rows from what is kept of their tasks."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from kshot.trainer.evaluate.paired_differences import paired_difference
from studies.common.results import Row
from studies.pictures.tail.records import TailTask, left_out_settings

# A result's name, and where its `more` has the tasks by trial and plan.
TAILS, KEPT = "tails", "tasks"
# What a time budget of 20 s has room for, by examples per class.
SERVED = {1: "20-steps", 5: "folds-of-12"}
MEAN = "mean"  # the set that stands for all of them
# The bundle's head, and one whose weights of blocks the other sets chose.
SHIPPED, LEFT_OUT = "shipped", "left-out"
# Tasks by examples per class, plan and head, and by set.
Kept = Mapping[tuple[int, str, str], Mapping[str, Sequence[TailTask]]]
Shares = npt.NDArray[np.float64]


def tail_rows(kept: Kept, query_count: int) -> Sequence[Row]:
    """Return a row for each plan and set, and one for the mean of the sets.

    Each has the paired difference to the head alone, and as `left_out` the same by settings that
    the other sets chose. The interval of the mean takes the i-th tasks of all sets as one. Sets
    have equally many tasks.
    """
    rows = []
    for (shot, plan, head), sets in kept.items():
        served = [(shot, plan, head) for shot, plan in SERVED.items()]
        choosing = [kept[key] for key in served if key in kept] or [sets]
        chosen = left_out_settings(choosing)
        found = {
            name: _columns([*tasks], chosen[name], query_count) for name, tasks in sets.items()
        }
        columns = {**found, MEAN: np.mean(list(found.values()), axis=0)}
        rows += [
            {"trial": f"{name}-{shot}shot", "contender": contender_of(plan, head), **_row(of)}
            for name, of in columns.items()
        ]
    return rows


def contender_of(plan: str, head: str = SHIPPED) -> str:
    """Return how the rows of a plan behind a head are named."""
    return plan if head == SHIPPED else f"{plan}-{head}"


def _columns(tasks: Sequence[TailTask], others: tuple[float, float], query_count: int) -> Shares:
    """Return shares of right answers and more of each task, `(5, tasks)`; see `_row`."""
    return np.array(
        [
            [task.head / query_count for task in tasks],
            [task.right / query_count for task in tasks],
            [task.right_at(*others) / query_count for task in tasks],
            [task.weight > 0 for task in tasks],
            [task.seconds for task in tasks],
        ],
        float,
    )


def _row(columns: Shares) -> Row:
    head, right, others, adapted, seconds = columns.tolist()
    gain, left_out = paired_difference(right, head), paired_difference(others, head)
    return {
        "tasks": len(head),
        "head": round(float(np.mean(head)), 5),
        "accuracy": round(float(np.mean(right)), 5),
        "ahead": round(gain.mean, 5),
        "ahead_ci95": round(gain.half_width, 5),
        "left_out": round(left_out.mean, 5),
        "left_out_ci95": round(left_out.half_width, 5),
        "adapted": round(float(np.mean(adapted)), 3),
        "seconds": round(float(np.mean(seconds)), 2),
    }
