"""What an arm reached on the tasks that all arms of an experiment share, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kshot.bundle import write_synced
from kshot.trainer.errors import TrainingError
from kshot.trainer.experiment import ZERO
from kshot.trainer.statistics import T_METHOD, Interval, accuracy_interval, t_half_width

__all__ = ["ArmScores", "Picture", "mean_score", "read_scores", "write_scores"]

SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class Picture:
    """One wave: its values ``wanted`` at ``x``, its support set, the fits before and after."""

    x: Sequence[float]
    wanted: Sequence[float]
    support_x: Sequence[float]
    support_y: Sequence[float]
    fits: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class ArmScores:
    """Scores of each task, by what was measured: a batch-norm mode, or so many inner steps.

    Accuracies in 0..1 of ``query_count`` queries, or squared errors where that is 0. ``identity``
    names training and tasks: equal ones have been through the same.
    """

    identity: str
    query_count: int
    scores: Mapping[str, Sequence[float]]
    picture: Picture | None = None

    @property
    def measured(self) -> tuple[str, ...]:
        """Name what was measured, but for the zero function's errors."""
        return tuple(name for name in self.scores if name != ZERO)

    @property
    def compared(self) -> tuple[str, ...]:
        """Name what arms are compared by: every batch-norm mode, or the most inner steps."""
        return self.measured if self.query_count else self.measured[-1:]

    @property
    def primary(self) -> str:
        """Name the one that is drawn: the first mode, or the most inner steps."""
        return self.compared[0]


def mean_score(runs: Sequence[ArmScores], measured: str) -> Interval:
    """Estimate the mean on new tasks of one arm's runs from several seeds, on the same tasks.

    The interval is over tasks, of each the mean of the runs: it says what other tasks would give,
    not what other seeds would.
    """
    values = np.mean([run.scores[measured] for run in runs], axis=0)
    if runs[0].query_count:
        queries = runs[0].query_count * len(runs)
        return accuracy_interval(np.rint(values * queries).astype(np.int64), queries)
    return Interval(float(values.mean()), t_half_width(values), T_METHOD)


def write_scores(folder: Path, scores: ArmScores) -> None:
    """Write an arm's scores to its folder, whole or not at all; raises ``TrainingError``."""
    path = folder / SCORES_FILE
    temporary = path.with_suffix(".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        write_synced(temporary, json.dumps(asdict(scores)).encode())
        temporary.replace(path)
    except OSError as error:
        raise TrainingError(f"{path} could not be written: {error.strerror}") from error


def read_scores(folder: Path, identity: str) -> ArmScores | None:
    """Read an arm's scores; None where there are none, or those of another training or tasks."""
    try:
        values = json.loads((folder / SCORES_FILE).read_bytes())
        picture = values.pop("picture")
        scores = ArmScores(**values, picture=None if picture is None else Picture(**picture))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return scores if scores.identity == identity else None
