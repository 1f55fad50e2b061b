"""Cross-validation: every picture is asked once, of those who learned the other folds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from kshot.bench.trial.contenders import Contender
from kshot.bench.trial.pictures import Pictures, Rows
from kshot.client import TailReport
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.statistics import Interval, accuracy_interval

# Of the growth of accuracy: examples per class, and the milliseconds that it may take.
EXAMPLE_COUNTS = (1, 2, 5, 10, 20, 50)
GROWTH_MS = 12_000.0
_LEAST_STATED = 1e-3  # one sure mistake does not decide
Tick = Callable[[], None]


@dataclass(frozen=True)
class Outcome:
    """A contender's answers to all pictures, in their order, and median milliseconds.

    `tails` tell of the folds in which last layers could adapt.
    """

    contender: Contender
    answers: Rows
    probabilities: npt.NDArray[np.floating]
    correct: npt.NDArray[np.bool_]
    adapt_ms: float
    picture_ms: float
    tails: tuple[TailReport, ...] = ()

    @property
    def accuracy(self) -> Interval:
        """Return the share of right answers, with Wilson's interval over the pictures."""
        right = np.array([int(self.correct.sum())])
        return accuracy_interval(right, len(self.correct))

    @property
    def log_loss(self) -> float:
        """Return the mean log loss, in nats, of being right as surely as it says."""
        stated = np.where(self.correct, self.probabilities, 1 - self.probabilities)
        return float(-np.log(np.maximum(stated, _LEAST_STATED)).mean())

    @property
    def place(self) -> tuple[float, ...]:
        """Return what orders outcomes, the best first; the surer and the faster break ties."""
        return (-float(self.correct.sum()), self.log_loss, self.picture_ms)

    def ahead_of(self, other: "Outcome") -> Interval:
        """Return the difference of the shares, paired over the pictures."""
        first, second = ([float(one) for one in of.correct] for of in (self, other))
        return paired_difference(first, second)


def cross_validate(contender: Contender, pictures: Pictures, tick: Tick) -> Outcome:
    """Let a contender answer all pictures; `tick` is called after each fold."""
    answers = np.zeros(len(pictures.data), np.int64)
    probabilities = np.zeros(len(pictures.data))
    adapting, asking, tails = [], [], []
    for fold in range(pictures.fold_count):
        learned, asked = pictures.split(fold)
        found = contender.answer(learned, asked)
        answers[asked], probabilities[asked] = found.classes, found.probabilities
        adapting.append(found.adapt_ms)
        asking.append(found.picture_ms)
        tails += [found.tail] if found.tail else []
        tick()
    return Outcome(
        contender,
        answers,
        probabilities,
        answers == pictures.classes,
        median(adapting),
        median(asking),
        tuple(tails),
    )


def tuned(settings: Sequence[Contender], pictures: Pictures) -> Outcome:
    """Return the best of a rival's settings; the same folds judge, which flatters it."""
    found = [cross_validate(one, pictures, lambda: None) for one in settings]
    return min(found, key=lambda outcome: outcome.place)


def growth(outcome: Outcome, pictures: Pictures) -> dict[int, float]:
    """Return the accuracy by examples per class, of as many folds as the time allows."""
    most = pictures.least_examples
    counts = [count for count in EXAMPLE_COUNTS if count < most]
    folds = pictures.fold_count
    if counts:
        fold_ms = outcome.adapt_ms + outcome.picture_ms * len(pictures.data) / folds
        folds = max(1, min(folds, int(GROWTH_MS / (fold_ms * len(counts)))))
    grown = {}
    for count in counts:
        right = asked_count = 0
        for fold in range(folds):
            learned, asked = pictures.split(fold, count)
            found = outcome.contender.answer(learned, asked)
            right += int((found.classes == pictures.classes[asked]).sum())
            asked_count += len(asked)
        grown[count] = right / asked_count
    return {**grown, most: float(outcome.correct.mean())}
