"""The picture of a figure: its panels side by side, and the panels that several figures have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, shorten
from typing import TYPE_CHECKING

import numpy as np

from studies.common.plots import CHARACTERS_PER_INCH, GREY, LOOKS, Look, legend_below, save_plot
from studies.figures.comparison import mean_score
from studies.figures.figure import START, Figure, Panel
from studies.figures.training import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


@dataclass(frozen=True)
class Drawing:
    """A panel's axes and its lines, each a look and the outcomes of its arms.

    Accuracies are of the data set's `part` and drawn in per cent; of sine waves it is empty.
    """

    axes: Axes
    lines: Sequence[tuple[Look, Sequence[Outcome]]]
    start: Outcome
    part: str

    @property
    def measured(self) -> str:
        """Name the score that is drawn: the first of those that are compared."""
        return self.start.compared[0]

    def score(self, outcome: Outcome, measured: str | None = None) -> tuple[float, float]:
        """Return an arm's final score and its interval's half width."""
        interval = mean_score(outcome.scores[measured or self.measured], outcome.query_count)
        unit = 100 if self.part else 1
        return unit * interval.mean, unit * interval.half_width

    def draw_scores(
        self, look: Look, xs: Sequence[float], scores: Iterable[tuple[float, float]]
    ) -> None:
        """Draw scores joined by a line, with a bar for each interval."""
        means, errors = zip(*scores, strict=True)
        self.axes.errorbar(xs, means, errors, markersize=4, capsize=2, **vars(look))

    def name_score(self) -> None:
        """Write on the y axis which score is drawn."""
        label = f"mean squared error after {self.measured.replace('_', ' ')}"
        if self.part:
            classes = "validation" if self.part == "val" else self.part
            label = f"accuracy on {classes} classes, % ({self.measured})"
        self.axes.set_ylabel(label)


def draw_curve(to: Drawing) -> None:
    """Draw the mean of the seeds along the trainings, and the range of the seeds."""
    key = f"accuracy/{to.part}/{to.measured}" if to.part else f"squared_error/{to.measured}"
    for look, (outcome, *_) in to.lines:
        xs = [float(point["meta_iteration"] or 0) for point in outcome.curves[0]]
        # None, what was not finite, becomes NaN, which is not drawn.
        points = [[point.get(key) for point in curve] for curve in outcome.curves]
        values = (100 if to.part else 1) * np.array(points, dtype=np.float64)
        to.axes.plot(xs, values.mean(axis=0), look.linestyle, color=look.color, label=look.label)
        if len(points) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            to.axes.fill_between(xs, low, high, color=look.color, alpha=0.12, linewidth=0)
    to.name_score()
    if not to.part:
        to.axes.set_yscale("log")


def draw_final(to: Drawing) -> None:
    """Draw each arm's final score with its interval, one below the other."""
    for row, (look, (outcome, *_)) in enumerate(to.lines):
        mean, error = to.score(outcome)
        to.axes.errorbar(mean, row, xerr=error, fmt=look.marker, color=look.color, capsize=3)
    to.axes.axvline(to.score(to.start)[0], color=GREY, linestyle=":", label="before training")
    labels = [look.label for look, _ in to.lines]
    to.axes.set_yticks(range(len(labels)), labels, fontsize="small")
    to.axes.invert_yaxis()


def along_and_after(task_count: int, along: tuple[str, ...] = ("",)) -> tuple[Panel, Panel]:
    """Make the panels of accuracies along the trainings, of all lines or some, and after them."""
    title = f"along the training, {task_count} tasks at every point"
    return (
        Panel(draw_curve, title, "meta-iterations", along),
        Panel(draw_final, "after the training, the same tasks for all", "accuracy, %"),
    )


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
            shown = [(looks[name], lines[name]) for name in lines if name.startswith(panel.lines)]
            axes.set_title(panel.title, fontsize="medium")
            axes.set_xlabel(panel.x_label)
            axes.grid(alpha=0.3)
            if shown:
                panel.draw(Drawing(axes, shown, start, figure.part))
            else:
                axes.text(0.5, 0.5, "not run", ha="center", transform=axes.transAxes)
        legend_below(canvas, all_axes)
        columns = int(CHARACTERS_PER_INCH * canvas.get_figwidth())
        wrapped = fill(shorten(subtitle, 2 * columns), columns, break_on_hyphens=False)
        canvas.suptitle(f"{figure.title}\n{wrapped}", fontsize="medium")

    width, height = max(9.0, 4.6 * len(figure.panels)), 4.8 + 0.25 * (len(labels) // 3)
    save_plot(path, draw, width=width, height=height)
