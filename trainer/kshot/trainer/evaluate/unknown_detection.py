"""Scores of the detection of unknown classes: the area under the ROC curve."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kshot.trainer.statistics import SAME_METHOD, all_equal, differing_share_bound, t_half_width

Scores = npt.NDArray[np.floating]

SCORE = "largest probability"
AUROC_METHOD = "95% t-interval over tasks, clustered by Obuchowski 1997"
TRUE_POSITIVE_RATE = 0.95


@dataclass(frozen=True)
class UnknownDetection:
    """How well a score separates known from unknown queries, with one threshold for all tasks.

    `auroc` is the probability that a known query scores above an unknown one, ties counted half.
    `fpr_at_95_tpr` is the share of unknown queries accepted as known at the threshold that accepts
    at least 95 % of the known ones.
    """

    auroc: float
    ci95: float
    ci_method: str
    fpr_at_95_tpr: float
    known_count: int
    unknown_count: int
    score: str = SCORE


def detect_unknown(known: Scores, unknown: Scores) -> UnknownDetection:
    """Measure the scores of `(tasks, n)` known and `(tasks, m)` unknown queries, pooled over tasks.

    The queries of a task share its support set, so the interval is that of the mean over tasks of
    each task's part in the area (Obuchowski 1997, clustered ROC data). Where all parts are equal,
    for example without a mistake, or there is one task, it is a bound on the share of pairs that
    may differ.
    """
    auroc = area_under_roc(known.ravel(), unknown.ravel())
    above = _twice_below(unknown.ravel(), known) / (2 * unknown.size)  # (tasks, n)
    below = 1 - _twice_below(known.ravel(), unknown) / (2 * known.size)  # (tasks, m)
    parts = above.mean(axis=1) + below.mean(axis=1) - auroc
    same = all_equal(parts)
    return UnknownDetection(
        auroc=auroc,
        # A share of tasks is in at most twice that share of the pairs.
        ci95=min(1.0, 2 * differing_share_bound(len(parts))) if same else t_half_width(parts),
        ci_method=SAME_METHOD if same else AUROC_METHOD,
        fpr_at_95_tpr=false_positive_rate(known.ravel(), unknown.ravel()),
        known_count=known.size,
        unknown_count=unknown.size,
    )


def area_under_roc(known: Scores, unknown: Scores) -> float:
    """Return the share of pairs in which the known score is the larger; equal ones count half.

    It is U / (n m) of Mann and Whitney (1947), for n known and m unknown scores.
    """
    return float(_twice_below(unknown, known).sum() / (2 * len(known) * len(unknown)))


def false_positive_rate(known: Scores, unknown: Scores, rate: float = TRUE_POSITIVE_RATE) -> float:
    """Return the share of unknown scores at or above a threshold.

    The threshold is the largest score that at least `rate` of the known scores reach.
    """
    wanted = int(np.ceil(rate * len(known) - 1e-9))
    threshold = np.sort(known)[len(known) - wanted]
    return float((unknown >= threshold).mean())


def _twice_below(reference: Scores, scores: Scores) -> npt.NDArray[np.integer]:
    """Return for each score twice the number of the reference below it, plus the equal ones."""
    ordered = np.sort(reference)
    return np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
