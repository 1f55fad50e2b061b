"""What an arm reaches on the tasks that all arms share, and the file that keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kshot.bundle import replace_file
from kshot.trainer.errors import writing
from kshot.trainer.statistics import T_METHOD, Interval, accuracy_interval, t_half_width
from studies.figures.figure import ZERO

__all__ = ["ArmScores", "mean_score", "read_scores", "write_scores"]

SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class ArmScores:
    """The score of each task, by batch-norm mode or by number of inner steps.

    Scores are accuracies in 0..1 of `query_count` queries, or squared errors where that is 0. Equal
    `identity` means equal training and tasks. Of sine waves, `picture` holds one: its values
    `wanted` at `x`, its support set `support_x` and `support_y`, and the `fits` by inner steps.
    """

    identity: str
    query_count: int
    scores: Mapping[str, Sequence[float]]
    picture: Mapping[str, Any] | None = None

    @property
    def measured(self) -> tuple[str, ...]:
        """Name all scores but the zero function's errors."""
        return tuple(name for name in self.scores if name != ZERO)

    @property
    def compared(self) -> tuple[str, ...]:
        """Name the scores that claims compare: each batch-norm mode, or the most inner steps."""
        return self.measured if self.query_count else self.measured[-1:]


def mean_score(runs: Sequence[ArmScores], measured: str) -> Interval:
    """Estimate an arm's mean score on new tasks, from its runs with several seeds.

    The interval is over tasks, each task's score averaged over the runs. It covers other tasks, not
    other seeds.
    """
    values = np.mean([run.scores[measured] for run in runs], axis=0)
    if runs[0].query_count:
        queries = runs[0].query_count * len(runs)
        return accuracy_interval(np.rint(values * queries).astype(np.int64), queries)
    return Interval(float(values.mean()), t_half_width(values), T_METHOD)


def write_scores(folder: Path, scores: ArmScores) -> None:
    """Write an arm's scores to its folder; raises `TrainingError`."""
    path = folder / SCORES_FILE
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(asdict(scores)).encode())


def read_scores(folder: Path, identity: str) -> ArmScores | None:
    """Read an arm's scores; None if there are none, or those of another training or other tasks."""
    try:
        scores = ArmScores(**json.loads((folder / SCORES_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return scores if scores.identity == identity else None
