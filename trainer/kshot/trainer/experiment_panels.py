"""The panels of an experiment's picture, one function for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kshot.trainer.experiment import ZERO
from kshot.trainer.experiment_scores import ArmScores, Picture, mean_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kshot.trainer.experiment_run import Outcome

__all__ = ["DRAWERS", "Look", "PanelData"]

GREY = "#888888"


@dataclass(frozen=True)
class Look:
    """How a line looks in all panels."""

    label: str
    colour: str
    dash: str
    marker: str


@dataclass(frozen=True)
class PanelData:
    """The lines of a panel, each the arms of one; the start of all; how each line looks."""

    lines: Mapping[str, Sequence[Outcome]]
    start: Outcome
    looks: Mapping[str, Look]
    part: str = "test"
    """The part of the data set that accuracies are of."""

    @property
    def of_images(self) -> bool:
        """Tell whether scores are accuracies; else they are squared errors."""
        return self.start.runs[0].scores.query_count > 0

    @property
    def measured(self) -> str:
        """Name the score that is drawn: the first mode, or the most inner steps."""
        return self.start.runs[0].scores.primary

    def score(self, outcome: Outcome, measured: str | None = None) -> tuple[float, float]:
        """Return an arm's final score and its interval's half width, accuracies in per cent."""
        interval = mean_score([run.scores for run in outcome.runs], measured or self.measured)
        unit = 100 if self.of_images else 1
        return unit * interval.mean, unit * interval.half_width

    def curve_value(self, point: Mapping[str, float | None]) -> float:
        """Return a curve's point; what was not finite is not drawn."""
        images = self.of_images
        name, unit = (f"accuracy/{self.part}", 100) if images else ("squared_error", 1)
        value = point.get(f"{name}/{self.measured}")
        return float("nan") if value is None else unit * value


def draw_curve(axes: Axes, data: PanelData) -> None:
    """Draw the mean of the seeds along the trainings, and the range of the seeds."""
    for name, (outcome, *_) in data.lines.items():
        curves = [run.curve for run in outcome.runs]
        xs = [float(point["meta_iteration"] or 0) for point in curves[0]]
        values = np.array([[data.curve_value(point) for point in curve] for curve in curves])
        look = data.looks[name]
        axes.plot(xs, values.mean(axis=0), look.dash, color=look.colour, label=look.label)
        if len(curves) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(xs, low, high, color=look.colour, alpha=0.12, linewidth=0)
    axes.set_ylabel(_score_label(data))
    if not data.of_images:
        axes.set_yscale("log")


def draw_final(axes: Axes, data: PanelData) -> None:
    """Draw each arm's final score with its interval, one below the other."""
    for row, (name, (outcome, *_)) in enumerate(data.lines.items()):
        mean, error = data.score(outcome)
        look = data.looks[name]
        axes.errorbar(mean, row, xerr=error, fmt=look.marker, color=look.colour, capsize=3)
    axes.axvline(data.score(data.start)[0], color=GREY, linestyle=":", label="before training")
    labels = [data.looks[name].label for name in data.lines]
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    axes.invert_yaxis()


def draw_sweep(axes: Axes, data: PanelData) -> None:
    """Draw the final scores over the values of each line's sweep, with intervals."""
    values = sorted({_value(arm) for arms in data.lines.values() for arm in arms})
    for name, arms in data.lines.items():
        means, errors = zip(*(data.score(arm) for arm in arms), strict=True)
        _errorbar(axes, data.looks[name], [_value(arm) for arm in arms], means, errors)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.axhline(data.score(data.start)[0], color=GREY, linestyle=":", label="before training")
    axes.set_ylabel(_score_label(data))


def draw_steps(axes: Axes, data: PanelData) -> None:
    """Draw the errors after each number of inner steps, with intervals."""
    for name, (outcome, *_) in data.lines.items():
        names = outcome.runs[0].scores.measured
        means, errors = zip(*(data.score(outcome, name) for name in names), strict=True)
        steps = [float(name.removesuffix("_steps")) for name in names]
        _errorbar(axes, data.looks[name], steps, means, errors)
    zero = data.score(data.start, ZERO)[0]
    axes.axhline(zero, color=GREY, linestyle=":", label="zero function")
    axes.axhline(zero / 10, color=GREY, linestyle="--", label="a tenth of it")
    axes.set_yscale("log")
    axes.set_ylabel("mean squared error")


def draw_waves(axes: Axes, data: PanelData) -> None:
    """Draw one wave, its support set, and each arm's fits before and after the inner steps."""
    first = _picture(next(iter(data.lines.values()))[0].runs[0].scores)
    axes.plot(first.x, first.wanted, color="black", linewidth=2.5, alpha=0.35, label="true wave")
    axes.plot(first.support_x, first.support_y, "k^", markersize=6, label="support set")
    for name, (outcome, *_) in data.lines.items():
        picture, look = _picture(outcome.runs[0].scores), data.looks[name]
        before, *_, after = picture.fits.values()
        axes.plot(picture.x, before, ":", color=look.colour)
        axes.plot(picture.x, after, "-", color=look.colour, label=look.label)
    axes.set_ylabel("y")


DRAWERS: Mapping[str, Callable[[Axes, PanelData], None]] = {
    "curve": draw_curve,
    "final": draw_final,
    "sweep": draw_sweep,
    "steps": draw_steps,
    "waves": draw_waves,
}


def _errorbar(
    axes: Axes, look: Look, xs: Sequence[float], means: Sequence[float], errors: Sequence[float]
) -> None:
    axes.errorbar(
        xs,
        means,
        yerr=errors,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markersize=4,
        capsize=2,
        label=look.label,
    )


def _score_label(data: PanelData) -> str:
    if data.of_images:
        classes = "validation" if data.part == "val" else data.part
        return f"accuracy on {classes} classes, % ({data.measured})"
    return f"mean squared error after {data.measured.replace('_', ' ')}"


def _value(outcome: Outcome) -> float:
    assert outcome.value is not None  # noqa: S101 -- checked with the experiment
    return outcome.value


def _picture(scores: ArmScores) -> Picture:
    assert scores.picture is not None  # noqa: S101 -- checked with the experiment
    return scores.picture
