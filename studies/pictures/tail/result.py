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
MEAN, COMMON = "mean", "common"  # sets that stand for all of them
# The bundle's head, and one whose weights of blocks the other sets chose.
SHIPPED, LEFT_OUT = "shipped", "left-out"
# Tasks by number and set, and these by examples per class, plan and head.
Tasks = Mapping[int, Mapping[str, TailTask]]
Kept = Mapping[tuple[int, str, str], Tasks]
Shares = npt.NDArray[np.float64]


def tail_rows(kept: Kept, query_count: int) -> Sequence[Row]:
    """Return a row for each plan and set, one for the mean of sets, one for that of common tasks.

    Each has the paired difference to the head alone, and as `left_out` the same by settings that
    the other sets chose. The interval of a mean takes tasks of equal number in all sets as one.
    Common are the tasks that all plans for as many examples have, behind the same head.
    """
    rows = []
    for (shot, plan, head), by_number in kept.items():
        served = [(shot, plan, head) for shot, plan in SERVED.items()]
        choosing = [by_set(kept[key]) for key in served if key in kept] or [by_set(by_number)]
        chosen, sets = left_out_settings(choosing), by_set(by_number)
        found = {name: _columns(tasks, chosen[name], query_count) for name, tasks in sets.items()}
        mean = np.mean(list(found.values()), axis=0)
        numbers = common_numbers(kept, shot, head)
        common = mean[:, [number in numbers for number in by_number]]
        columns = {**found, MEAN: mean, **({COMMON: common} if numbers else {})}
        rows += [
            {"trial": f"{name}-{shot}shot", "contender": contender_of(plan, head), **_row(of)}
            for name, of in columns.items()
        ]
    return rows


def by_set(by_number: Tasks) -> Mapping[str, Sequence[TailTask]]:
    """Return the tasks of each set in the order of their numbers."""
    names = next(iter(by_number.values()))
    return {name: [sets[name] for sets in by_number.values()] for name in names}


def common_numbers(kept: Kept, shot: int, head: str) -> set[int]:
    """Return the numbers of the tasks that all plans have."""
    found = (set(of) for (other, _, behind), of in kept.items() if (other, behind) == (shot, head))
    return set.intersection(*found)


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
    gain, left_out = _difference(right, head), _difference(others, head)
    return {
        "tasks": len(head),
        "head": round(float(np.mean(head)), 5),
        "accuracy": round(float(np.mean(right)), 5),
        "ahead": gain[0],
        "ahead_ci95": gain[1],
        "left_out": left_out[0],
        "left_out_ci95": left_out[1],
        "adapted": round(float(np.mean(adapted)), 3),
        "seconds": round(float(np.mean(seconds)), 2),
    }


def _difference(found: Sequence[float], head: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean difference and its half width: None where no task has another answer."""
    if found == head:
        return 0.0, None
    interval = paired_difference(found, head)
    return round(interval.mean, 5), round(interval.half_width, 5)
