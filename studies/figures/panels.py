"""The picture of a figure: its panels side by side, one function for each kind of panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, shorten
from typing import TYPE_CHECKING

import numpy as np

from studies.common.plots import GREY, LOOKS, Look, draw_interval_line, legend_below, save_plot
from studies.figures.figure import START, ZERO, Figure, Panel
from studies.figures.run import Outcome
from studies.figures.scores import mean_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "PanelData",
    "along_and_after",
    "draw_curve",
    "draw_final",
    "draw_steps",
    "draw_sweep",
    "draw_waves",
    "plot",
]

CHARACTERS_PER_INCH = 12


@dataclass(frozen=True)
class PanelData:
    """The lines of a panel, each the outcomes of its arms; the untrained start; how lines look.

    Accuracies are of the data set's `part`; of sine waves it is empty.
    """

    lines: Mapping[str, Sequence[Outcome]]
    start: Outcome
    looks: Mapping[str, Look]
    part: str

    @property
    def unit(self) -> float:
        """Return the unit of scores: per cent, or one for squared errors."""
        return 100 if self.part else 1

    @property
    def measured(self) -> str:
        """Name the score that is drawn: the first of those that are compared."""
        return self.start.runs[0].scores.compared[0]

    @property
    def label(self) -> str:
        """Describe the score that is drawn."""
        if not self.part:
            return f"mean squared error after {self.measured.replace('_', ' ')}"
        classes = "validation" if self.part == "val" else self.part
        return f"accuracy on {classes} classes, % ({self.measured})"

    def score(self, outcome: Outcome, measured: str | None = None) -> tuple[float, float]:
        """Return an arm's final score and its interval's half width."""
        interval = mean_score([run.scores for run in outcome.runs], measured or self.measured)
        return self.unit * interval.mean, self.unit * interval.half_width


def draw_curve(axes: Axes, data: PanelData) -> None:
    """Draw the mean of the seeds along the trainings, and the range of the seeds."""
    quantity = f"accuracy/{data.part}" if data.part else "squared_error"
    for name, (outcome, *_) in data.lines.items():
        curves = [run.curve for run in outcome.runs]
        xs = [float(point["meta_iteration"] or 0) for point in curves[0]]
        # None, what was not finite, becomes NaN, which is not drawn.
        points = [[point.get(f"{quantity}/{data.measured}") for point in curve] for curve in curves]
        values = data.unit * np.array(points, dtype=np.float64)
        look = data.looks[name]
        axes.plot(xs, values.mean(axis=0), look.dashes, color=look.colour, label=look.label)
        if len(curves) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(xs, low, high, color=look.colour, alpha=0.12, linewidth=0)
    axes.set_ylabel(data.label)
    if not data.part:
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


def along_and_after(
    task_count: int, after: Sequence[str], along: Sequence[str] = ()
) -> tuple[Panel, Panel]:
    """Make the panels of accuracies along the trainings, by default of all arms, and after them."""
    title = f"along the training, {task_count} tasks at every point"
    return (
        Panel(draw_curve, title, "meta-iterations", along or after),
        Panel(draw_final, "after the training, the same tasks for all", "accuracy, %", after),
    )


def draw_sweep(axes: Axes, data: PanelData) -> None:
    """Draw the final scores over the values of each line's sweep, with intervals."""
    ticks: set[float] = set()
    for name, arms in data.lines.items():
        values = [arm.value for arm in arms if arm.value is not None]
        means, errors = zip(*(data.score(arm) for arm in arms), strict=True)
        draw_interval_line(axes, data.looks[name], values, means, errors)
        ticks.update(values)
    axes.set_xticks(sorted(ticks), [f"{value:g}" for value in sorted(ticks)])
    axes.minorticks_off()
    axes.axhline(data.score(data.start)[0], color=GREY, linestyle=":", label="before training")
    axes.set_ylabel(data.label)


def draw_steps(axes: Axes, data: PanelData) -> None:
    """Draw the errors after each number of inner steps, with intervals."""
    for name, (outcome, *_) in data.lines.items():
        names = outcome.runs[0].scores.measured
        means, errors = zip(*(data.score(outcome, name) for name in names), strict=True)
        steps = [float(name.removesuffix("_steps")) for name in names]
        draw_interval_line(axes, data.looks[name], steps, means, errors)
    zero = data.score(data.start, ZERO)[0]
    axes.axhline(zero, color=GREY, linestyle=":", label="zero function")
    axes.axhline(zero / 10, color=GREY, linestyle="--", label="a tenth of it")
    axes.set_yscale("log")
    axes.set_ylabel("mean squared error")


def draw_waves(axes: Axes, data: PanelData) -> None:
    """Draw one wave, its support set, and each arm's fits before and after the inner steps."""
    wave = data.start.runs[0].scores.picture or {}
    x = wave["x"]
    axes.plot(x, wave["wanted"], color="black", linewidth=2.5, alpha=0.35, label="true wave")
    axes.plot(wave["support_x"], wave["support_y"], "k^", markersize=6, label="support set")
    for name, (outcome, *_) in data.lines.items():
        look, picture = data.looks[name], outcome.runs[0].scores.picture or {}
        before, *_, after = picture["fits"].values()
        axes.plot(x, before, ":", color=look.colour)
        axes.plot(x, after, "-", color=look.colour, label=look.label)
    axes.set_ylabel("y")


def plot(path: Path, figure: Figure, outcomes: Sequence[Outcome], subtitle: str) -> None:
    """Draw the panels with the arms that were run, and write them as a PNG."""
    lines: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        lines.setdefault(outcome.arm.line, []).append(outcome)
    (start,) = lines.pop(START)
    labels = list(dict.fromkeys(arm.label for arm in figure.arms))
    # Lines with the same label look alike in all panels.
    looks = {arm.line: Look(arm.label, *LOOKS[labels.index(arm.label)]) for arm in figure.arms}

    def draw(canvas: Canvas) -> None:
        all_axes = canvas.subplots(1, len(figure.panels), squeeze=False)[0]
        for axes, panel in zip(all_axes, figure.panels, strict=True):
            shown = {name: lines[name] for name in panel.lines if name in lines}
            axes.set_title(panel.title, fontsize="medium")
            axes.set_xlabel(panel.x_label)
            axes.set_xscale(panel.x_scale)
            axes.grid(alpha=0.3)
            if shown:
                panel.draw(axes, PanelData(shown, start, looks, figure.part))
            else:
                axes.text(0.5, 0.5, "not run", ha="center", transform=axes.transAxes)
        legend_below(canvas, all_axes)
        columns = int(CHARACTERS_PER_INCH * canvas.get_figwidth())
        wrapped = fill(shorten(subtitle, 2 * columns), columns, break_on_hyphens=False)
        canvas.suptitle(f"{figure.title}\n{wrapped}", fontsize="medium")

    width, height = max(9.0, 4.6 * len(figure.panels)), 4.8 + 0.25 * (len(labels) // 3)
    save_plot(path, draw, width=width, height=height)
