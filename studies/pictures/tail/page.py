"""What the pages show of adapted tails: a table of all plans, and accuracy over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from studies.common.page import table
from studies.common.plots import LOOKS, save_plot
from studies.common.results import Row
from studies.pictures.gathered import Named
from studies.pictures.measure import SetRow, read_set_rows
from studies.pictures.tail.answers import PLANS
from studies.pictures.tail.result import COMMON, LEFT_OUT, MEAN, SERVED, TAILS
from studies.pictures.times import TIMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = (
    *("", "examples", "plan", "tasks a set", "head, %", "with the tail, %", "gain, points"),
    *("… each left out", "adapted, %", "seconds"),
)


def tail_table(found: Named) -> str:
    """Lay out the means of all plans, then the sets by the plans that are served."""
    real = {row.name: row.title for row in _real()}
    titles = {MEAN: "mean", COMMON: "mean, tasks of all plans", **real}
    lines = []
    for (trial, plan), row in found.items():
        name, shot = _of_trial(trial)
        served = plan.removesuffix(f"-{LEFT_OUT}") == SERVED[shot]
        if name == MEAN or (name == COMMON and plan in PLANS) or (name in real and served):
            cells = [titles[name], str(shot), plan.replace("-", " "), *_cells(row)]
            lines.append((list(titles).index(name), cells))
    return table(HEAD, [cells for _, cells in sorted(lines, key=lambda line: line[0])])


def _cells(row: Row) -> Sequence[str]:
    return (
        str(row["tasks"]),
        f"{100 * row['head']:.1f}",
        f"{100 * row['accuracy']:.1f}",
        points(row, "ahead"),
        points(row, "left_out"),
        f"{100 * row['adapted']:.0f}",
        f"{row['seconds']:.1f}",
    )


def points(row: Row, column: str) -> str:
    """Say a paired difference."""
    width = row[f"{column}_ci95"]
    return "0" if width is None else f"{100 * row[column]:+.1f} ± {100 * width:.1f}"


def draw_curve(path: Path, tables: Mapping[str, Named]) -> None:
    """Draw the mean accuracy over the seconds of `Adapt` on one core, a panel for each shot.

    All plans of a panel are measured on the same tasks.
    """

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(SERVED))
        for axes, shot, look in zip(panels, SERVED, LOOKS, strict=False):
            found = tables[TAILS].items()
            rows = [
                (plan, row)
                for (trial, plan), row in found
                if trial == f"{COMMON}-{shot}shot" and plan in PLANS
            ]
            rows.sort(key=lambda item: float(item[1]["seconds"]))
            began, head = _head_seconds(tables[TIMES], shot), 100 * rows[0][1]["head"]
            seconds = [began, *(began + row["seconds"] for _, row in rows)]
            accuracies = [head, *(100 * row["accuracy"] for _, row in rows)]
            widths = [0.0, *(100 * (row["ahead_ci95"] or 0.0) for _, row in rows)]
            colour, _, marker = look
            axes.errorbar(seconds, accuracies, widths, color=colour, marker=marker, capsize=3)
            names = ["head alone", *(_said(plan) for plan, _ in rows)]
            for name, x, y in zip(names, seconds, accuracies, strict=True):
                axes.annotate(
                    name,
                    (x, y),
                    xytext=(-4, 4),
                    textcoords="offset points",
                    rotation=90,
                    ha="right",
                    fontsize="small",
                )
            axes.set_xlim(-0.08 * seconds[-1], 1.05 * seconds[-1])
            axes.set_title("1 example" if shot == 1 else f"{shot} examples")
            axes.set_xlabel("seconds of Adapt on one core")
            axes.set_ylabel("accuracy, mean of eight sets, %")
            axes.grid(alpha=0.3)

    save_plot(path, draw, width=10.0, height=4.0)


def _said(name: str) -> str:
    plan = PLANS[name]
    folds = f"3 x {plan.fold_step_count} + " if plan.folded else ""
    return f"{folds}{plan.step_count} steps"


def _head_seconds(times: Named, shot: int) -> float:
    """Return the median over sets of the time that `Adapt` takes with the head alone."""
    found: list[float] = [times[f"{row.name}-{shot}shot", "photos"]["adapt_ms"] for row in _real()]
    return median(found) / 1e3


def _real() -> Sequence[SetRow]:
    return list(read_set_rows(table="pictures").values())


def _of_trial(trial: str) -> tuple[str, int]:
    name, _, shot = trial.removesuffix("shot").rpartition("-")
    return name, int(shot)
