"""The fewest inner steps that answer as well as many, for each number of examples per class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kshot.bundle import Manifest, StepCountRule
from kshot.trainer.evaluate.evaluator import Evaluator, Report, part_of
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.statistics import Interval

# The step counts that are tried, the last of which is the reference.
STEP_COUNTS = (0, 1, 2, 3, 5, 10, 20, 30, 50)
# What fewer steps may lose in accuracy, with 95 % confidence.
MOST_LOST = 0.003


@dataclass(frozen=True)
class StepCountFit:
    """A rule, the accuracy of its steps, and the paired difference to the reference's."""

    rule: StepCountRule
    accuracy: float
    difference: Interval


def candidates(manifest: Manifest) -> tuple[int, ...]:
    """Return the step counts that a bundle allows; 0 only with a head from the support set."""
    least = 0 if manifest.head.default.from_support else 1
    most = manifest.limits.max_step_count
    return tuple(count for count in STEP_COUNTS if least <= count <= most)


def fit_step_counts(
    settings: EvaluationSettings,
    shots: Sequence[int],
    evaluator: Evaluator,
    report: Report = lambda _done, _total: None,
) -> tuple[StepCountFit, ...]:
    """Find the rules of growing shots: the first count whose difference to the last is tolerable.

    The accuracies are those of the default batch-norm mode on the same tasks. A difference is
    tolerable when its 95 % interval lies above `-MOST_LOST`.
    """
    mode, total = settings.batch_norm_mode, len(shots) * settings.task_count
    counts = candidates(evaluator.manifest)
    fits = []
    for number, shot in enumerate(shots):
        (along,) = evaluator.compare(
            [replace(settings, shot=shot)],
            [mode],
            step_counts=counts,
            planned_tasks=total,
            report=part_of(report, number * settings.task_count, total),
        )
        results = {count: of_modes[mode] for count, of_modes in along.items()}
        reference = results[counts[-1]]
        for count, result in results.items():
            accuracies = result.task_accuracies, reference.task_accuracies
            difference = paired_difference(*accuracies)
            if count == counts[-1] or difference.mean - difference.half_width > -MOST_LOST:
                rule = StepCountRule(max_shot=shot, step_count=count)
                fits.append(StepCountFit(rule, result.accuracy, difference))
                break
    return tuple(fits)
