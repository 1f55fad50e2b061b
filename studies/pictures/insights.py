"""What an adapted model says of itself: its estimated accuracy, and queries of no class."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kshot.server.adaptation import AdaptResult
from kshot.trainer.errors import DataError
from kshot.trainer.evaluate.unknown_detection import area_under_roc
from kshot.trainer.statistics import t_half_width
from studies.common.results import provenance
from studies.common.runner import SEED, Options, say
from studies.pictures.contenders import Contender
from studies.pictures.gathered import add_rows
from studies.pictures.in_process import InProcess, Shown
from studies.pictures.measure import Trial, read_set_rows
from studies.pictures.sets import PictureSet, Rows, Task
from studies.pictures.solvers import once_a_set

Floats = npt.NDArray[np.float64]
# The contender that is asked, the results, and the command that makes them.
PHOTOS, ESTIMATE, UNKNOWN = "photos", "estimate", "unknown"
COMMAND = "python studies/pictures/study.py --data DATA --insights"
THRESHOLD = 0.1  # of the known score: that of 10 % false alarms


@dataclass(frozen=True)
class Insights:
    """An adapted bundle on tasks of a set."""

    here: InProcess
    shown: Shown
    pictures: PictureSet

    def estimates(self, tasks: Sequence[Task]) -> Mapping[str, Any]:
        """Compare the estimate of each task with the accuracy on new queries.

        New are the task's queries, and all other pictures of its classes, apart from the groups of
        the support set: more queries vary less by themselves.
        """
        found = [self._estimate(task) for task in tasks]
        estimate, low, high, accuracy, on_others = np.array(found).T
        differences = estimate - accuracy
        return {
            "tasks": len(tasks),
            "estimate": _rounded(estimate.mean()),
            "accuracy": _rounded(accuracy.mean()),
            "difference": _rounded(differences.mean()),
            "ci95": _rounded(t_half_width(differences)),
            "inside": _rounded(((low <= accuracy) & (accuracy <= high)).mean()),
            "inside_of_all_others": _rounded(((low <= on_others) & (on_others <= high)).mean()),
            "width": _rounded((high - low).mean()),
        }

    def unknowns(self, tasks: Sequence[Task]) -> Mapping[str, Any]:
        """Tell queries from as many pictures of other classes, or all there are, by two scores.

        AUROC and false alarms are means over tasks. Raises `DataError` without other classes.
        """
        generator = np.random.default_rng(SEED)
        found = [self._unknown(task, generator) for task in tasks]
        known, probability, alarms, refused = np.array(found).T
        return {
            "tasks": len(tasks),
            "known_score": _rounded(known.mean()),
            "ci95": _rounded(t_half_width(known)),
            "probability": _rounded(probability.mean()),
            "ahead": _rounded((known - probability).mean()),
            "ahead_ci95": _rounded(t_half_width(known - probability)),
            "false_alarms": _rounded(alarms.mean()),
            "refused": _rounded(refused.mean()),
        }

    def _estimate(self, task: Task) -> tuple[float, ...]:
        adapted = self.here.adapt(self.shown, task)
        of = adapted.estimate
        if of is None:
            raise DataError("expected tasks whose accuracy can be estimated")
        others, labels = self._others(task)
        return (
            of.accuracy,
            of.low,
            of.high,
            self._accuracy(adapted, task.queries, task.query_labels),
            self._accuracy(adapted, others, labels),
        )

    def _accuracy(self, adapted: AdaptResult, rows: Rows, labels: Rows) -> float:
        answers = self.here.answer(self.shown, adapted, rows).logits.argmax(axis=1)
        return float((answers == labels).mean())

    def _unknown(self, task: Task, generator: np.random.Generator) -> tuple[float, ...]:
        candidates = np.flatnonzero(
            ~np.isin(self.pictures.classes, self.pictures.classes[task.support]) & self._apart(task)
        )
        if not len(candidates):
            raise DataError("expected pictures of other classes, got none")
        count = min(len(task.queries), len(candidates))
        unknown = generator.choice(candidates, count, replace=False)
        adapted = self.here.adapt(self.shown, task, scored=True)
        of_known, of_unknown = (self._scores(adapted, rows) for rows in (task.queries, unknown))
        (known, probable), (strange, improbable) = of_known, of_unknown
        return (
            area_under_roc(known, strange),
            area_under_roc(probable, improbable),
            float((known < THRESHOLD).mean()),
            float((strange < THRESHOLD).mean()),
        )

    def _scores(self, adapted: AdaptResult, rows: Rows) -> tuple[Floats, Floats]:
        """Return known scores and maximum probabilities, as `Predict` gives them."""
        answers = self.here.answer(self.shown, adapted, rows)
        if answers.known is None:
            raise DataError("expected adapted models with known scores")
        known, probable = answers.known, answers.probabilities.max(axis=1)
        return known.astype(np.float64), probable.astype(np.float64)

    def _others(self, task: Task) -> tuple[Rows, Rows]:
        """Return the rows of all pictures of a task's classes that may be asked, and labels."""
        classes = dict(
            zip(self.pictures.classes[task.support].tolist(), task.support_labels, strict=True)
        )
        rows = np.flatnonzero(np.isin(self.pictures.classes, list(classes)) & self._apart(task))
        rows = np.setdiff1d(rows, task.support)
        return rows, np.array([classes[of] for of in self.pictures.classes[rows].tolist()])

    def _apart(self, task: Task) -> npt.NDArray[np.bool_]:
        """Tell which pictures are of other groups than the support set's."""
        if self.pictures.groups is None:
            return np.ones(len(self.pictures.classes), bool)
        groups = np.array(self.pictures.groups)
        return ~np.isin(groups, groups[task.support])


def _rounded(value: float) -> float:
    return round(float(value), 5)


def run_insights(asked: Sequence[Trial], contender: Contender, options: Options) -> None:
    """Measure what adapted models say of themselves on the real sets, and write it."""
    real = read_set_rows(table="pictures")
    own = [trial for trial in asked if trial.row.name in real and trial.shot > 1]
    if not own:
        return
    made_with = provenance(COMMAND, [SEED], options.device)
    try:
        here = InProcess(contender.bundles(), contender.options)
    except DataError as error:
        say(f"left out; {error}")
        return
    with closing(here):
        show = once_a_set(here.show)
        for trial in own:
            of = Insights(here, show(trial.pictures), trial.pictures)
            for name, find in ((ESTIMATE, of.estimates), (UNKNOWN, of.unknowns)):
                try:
                    row = {"trial": trial.name, "contender": contender.name, **find(trial.tasks)}
                except DataError as error:
                    say(f"{trial.name}: {name}: left out; {error}")
                    continue
                say(f"{trial.name}: {name}: {row}")
                add_rows(name, made_with, [row], options.out)
