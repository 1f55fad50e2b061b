"""The right answers of many tasks, counted part by part, so that a stopped count goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kshot.bundle import BatchNormMode, replace_file
from kshot.trainer.evaluate.baselines import Solver
from kshot.trainer.evaluate.evaluator import Measurement
from kshot.trainer.evaluate.tasks import EvaluationTasks

__all__ = ["Counts", "count_right_answers"]

# A minute or two on one core; a multiple of the tasks that step together on a GPU.
TASKS_AT_A_TIME = 256

Identity = Mapping[str, object]


@dataclass
class Counts:
    """The right answers of each task so far, in each mode, and how many tasks diverged."""

    correct: dict[BatchNormMode, list[int]]
    diverged: dict[BatchNormMode, int] = field(default_factory=dict)

    @property
    def task_count(self) -> int:
        """Count the tasks that were solved."""
        return len(next(iter(self.correct.values())))


def count_right_answers(
    solver: Solver,
    tasks: EvaluationTasks,
    modes: Sequence[BatchNormMode],
    *,
    tasks_at_once: int,
    kept: Path,
    identity: Identity,
    report: Callable[[int, int], None],
) -> Counts:
    """Adapt to all tasks and count right answers in every mode, on the same adaptations.

    The counts are kept in a file after every part; where it holds those of the same ``identity``,
    in JSON's types, which says whose they are of which tasks, the count goes on from there. Raises
    ``OSError`` when the file cannot be written.
    """
    counts = _read(kept, identity, modes)
    total = len(tasks.episodes)
    report(counts.task_count, total)
    for start in range(counts.task_count, total, TASKS_AT_A_TIME):
        stop = min(start + TASKS_AT_A_TIME, total)
        measurement = Measurement(solver, [solver.step_count], modes)
        for first in range(start, stop, tasks_at_once):
            last = min(first + tasks_at_once, stop)
            measurement.solve(tasks.part(first, last), first)
            report(last, total)
        (results,) = measurement.results(tasks.digest).values()
        for mode, result in results.items():
            counts.correct[mode] += result.correct_counts
            counts.diverged[mode] = counts.diverged.get(mode, 0) + result.diverged_count
        _write(kept, identity, counts)
    return counts


def _read(kept: Path, identity: Identity, modes: Sequence[BatchNormMode]) -> Counts:
    """Return what a file holds for the same work, counts of no task where that is not whole."""
    empty = Counts({mode: [] for mode in modes})
    try:
        document = json.loads(kept.read_text())
    except (OSError, ValueError):
        return empty
    if not isinstance(document, dict) or document.get("identity") != dict(identity):
        return empty
    try:
        counts = Counts(
            {mode: [int(count) for count in document["correct"][mode]] for mode in modes},
            {mode: int(document["diverged"][mode]) for mode in modes},
        )
    except (KeyError, TypeError, ValueError):
        return empty
    whole = len({len(correct) for correct in counts.correct.values()}) == 1
    return counts if whole else empty


def _write(kept: Path, identity: Identity, counts: Counts) -> None:
    document = {
        "identity": dict(identity),
        "correct": counts.correct,
        "diverged": counts.diverged,
    }
    replace_file(kept, json.dumps(document).encode())
