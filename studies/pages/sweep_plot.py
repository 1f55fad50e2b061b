"""A sweep as a picture: single changes of the defaults over steps and milliseconds, by mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from studies.common import plots
from studies.common.plots import Look, log_ticks, step_ticks
from studies.pages.sweep import Measured, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches.
SIZE = (12.0, 10.5)
COLOURS = {
    "carried": plots.BLUE,
    "frozen": plots.RED,
    "fresh": plots.GREEN,
    "sgd": plots.PINK,
    "head trained": plots.BLUE,
    "head prototype": plots.YELLOW,
    "head zero": plots.SKY,
    "scope all": plots.BLUE,
    "scope head": plots.GREY,
}
DASHES = {"preconditioner": "-", "head": "--", "scope": ":"}
MODES = ("support", "support_and_query", "transductive")


def draw_choices(title: str, sweep: Sweep, answers: int) -> Callable[[Figure], None]:
    """Return what draws a sweep; `answers` is the number of queries of all tasks.

    Errors are on a logarithmic scale; no error at all is drawn as half a wrong answer.
    """
    modes = [mode for mode in MODES if any(of.batch_norm_mode == mode for of in sweep.rows)]
    step_counts = sorted({of.step_count for of in sweep.rows})

    def error(row: Measured) -> float:
        return max(100 * (1 - row.accuracy), 50 / answers)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(3, len(modes), sharey="row", squeeze=False)
        for column, mode in enumerate(modes):
            errors, calibration, times = (panels[row][column] for row in range(3))
            for look, rows in _lines(sweep, mode):
                steps = [row.choice.step_count for row in rows]
                _plot(errors, look, steps, [error(row) for row in rows])
                _plot(calibration, look, steps, [max(row.ece, 1e-3) for row in rows])
                _plot(times, look, [row.ms_per_task for row in rows], [error(row) for row in rows])
            for nil in sweep.baselines(mode):
                errors.plot([0], [error(nil)], "*", color="black", markersize=10, zorder=5)
                times.plot([nil.ms_per_task], [error(nil)], "*", color="black", markersize=10)
            errors.set_title(mode)
            for panel in (errors, calibration):
                step_ticks(panel, step_counts)
            times.set_xscale("log")
            low, high = times.get_xlim()
            log_ticks(times.xaxis, (1, 2, 5) if high < 100 * low else (1, 3))
            times.set_xlabel("milliseconds of a task, adaptation and answers")
        for row, name in enumerate(("error, %", "expected calibration error", "error, %")):
            panels[row][0].set_ylabel(name)
            for panel in panels[row]:
                panel.set_yscale("log")
                log_ticks(panel.yaxis)
                panel.grid(alpha=0.3)
        handles, labels = panels[0][0].get_legend_handles_labels()
        star = panels[0][0].plot([], [], "*", color="black")[0]
        figure.legend(
            [*handles, star],
            [*labels, "NIL: no head, no step"],
            loc="outside lower center",
            ncols=min(len(handles) + 1, 5),
        )
        figure.suptitle(title)

    return draw


def _lines(sweep: Sweep, mode: str) -> Iterator[tuple[Look, Sequence[Measured]]]:
    """Go over the defaults and everything that differs from them in one of three fields."""
    start = replace(sweep.defaults, batch_norm_mode=mode)
    label = f"{start.preconditioner}, head {start.head}, scope {start.scope}: the defaults"
    yield Look(label, "black", width=2.6), sweep.along_steps(start)
    for axis, dashes in DASHES.items():
        for value in dict.fromkeys(getattr(of, axis) for of in sweep.rows if not of.baseline):
            choice = replace(start, **{axis: value})
            if choice != start and choice in sweep.rows:
                label = value if axis == "preconditioner" else f"{axis} {value}"
                look = Look(label, COLOURS[label], dashes, width=1.4)
                yield look, sweep.along_steps(choice)


def _plot(panel: Axes, look: Look, places: Sequence[float], values: Sequence[float]) -> None:
    panel.plot(
        places,
        values,
        color=look.colour,
        linestyle=look.dashes,
        linewidth=look.width,
        marker=look.marker,
        markersize=3.5,
        label=look.label,
    )
