"""A sweep as a picture: single changes of the defaults over steps and milliseconds, by mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kshot.bench.choosing_rows import Choice, Measured, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["SIZE", "draw_choices"]

# Inches.
SIZE = (12.0, 10.5)
# Colours that colour-blind eyes tell apart too (Okabe and Ito 2008).
BLUE, RED, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW, SKY, GREY = "#E69F00", "#56B4E9", "#777777"
COLOURS = {
    ("preconditioner", "carried"): BLUE,
    ("preconditioner", "frozen"): RED,
    ("preconditioner", "fresh"): GREEN,
    ("preconditioner", "sgd"): PINK,
    ("head", "trained"): BLUE,
    ("head", "prototype"): YELLOW,
    ("head", "zero"): SKY,
    ("scope", "all"): BLUE,
    ("scope", "head"): GREY,
}
DASHES = {"preconditioner": "-", "head": "--", "scope": ":"}
MODES = ("support", "support_and_query", "transductive")


@dataclass(frozen=True)
class _Line:
    """A choice over all its steps, and how it is drawn."""

    label: str
    rows: Sequence[Measured]
    colour: str
    dashes: str
    width: float


def draw_choices(title: str, sweep: Sweep, answers: int) -> Callable[[Figure], None]:
    """Return what draws a sweep; ``answers`` is the number of queries of all tasks.

    Errors are on a logarithmic scale, none at all as half a wrong answer.
    """
    modes = [mode for mode in MODES if any(of.batch_norm_mode == mode for of in sweep.rows)]
    step_counts = sorted({of.step_count for of in sweep.rows})
    least = 50 / answers

    def draw(figure: Figure) -> None:
        panels = figure.subplots(3, len(modes), sharey="row", squeeze=False)
        for column, mode in enumerate(modes):
            errors, calibration, times = (panels[row][column] for row in range(3))
            for line in _lines(sweep, mode):
                steps = [row.choice.step_count for row in line.rows]
                milliseconds = [row.ms_per_task for row in line.rows]
                wrong = [max(100 * (1 - row.accuracy), least) for row in line.rows]
                _draw(errors, line, steps, wrong)
                _draw(calibration, line, steps, [max(row.ece, 1e-3) for row in line.rows])
                _draw(times, line, milliseconds, wrong)
            for nil in sweep.baselines(mode):
                wrong_of_nil = max(100 * (1 - nil.accuracy), least)
                errors.plot([0], [wrong_of_nil], "*", color="black", markersize=10, zorder=5)
                times.plot([nil.ms_per_task], [wrong_of_nil], "*", color="black", markersize=10)
            errors.set_title(mode)
            for panel in (errors, calibration):
                # Linear from 0 to 1, so that no step at all has its place.
                panel.set_xscale("symlog", linthresh=1, linscale=0.5)
                panel.set_xlim(-0.15, step_counts[-1] * 1.25)
                panel.set_xticks(step_counts, [str(count) for count in step_counts])
                panel.set_xlabel("inner steps")
            times.set_xscale("log")
            low, high = times.get_xlim()
            # As many ticks as there is room for.
            _tick(times.xaxis, (1, 2, 5) if high < 100 * low else (1, 3))
            times.set_xlabel("milliseconds of a task, adaptation and answers")
        for row, name in enumerate(("error, %", "expected calibration error", "error, %")):
            panels[row][0].set_ylabel(name)
            for panel in panels[row]:
                panel.set_yscale("log")
                _tick(panel.yaxis, (1, 2, 5))
                panel.grid(alpha=0.3)
        handles, labels = panels[0][0].get_legend_handles_labels()
        star = panels[0][0].plot([], [], "*", color="black", label="NIL: no head, no step")[0]
        figure.legend(
            [*handles, star],
            [*labels, star.get_label()],
            loc="outside lower center",
            ncols=min(len(handles) + 1, 5),
        )
        figure.suptitle(title)

    return draw


def _lines(sweep: Sweep, mode: str) -> Iterator[_Line]:
    """Go over the defaults and everything that differs from them in one of three fields."""
    start = replace(sweep.defaults, batch_norm_mode=mode)
    rows = sweep.along_steps(start)
    label = f"{start.preconditioner}, head {start.head}, scope {start.scope}: the defaults"
    yield _Line(label, rows, "black", "-", 2.6)
    for axis, dashes in DASHES.items():
        for choice in _others(sweep, start, axis):
            value = str(getattr(choice, axis))
            label = value if axis == "preconditioner" else f"{axis} {value}"
            colour = COLOURS[axis, value]
            yield _Line(label, sweep.along_steps(choice), colour, dashes, 1.4)


def _others(sweep: Sweep, start: Choice, axis: str) -> Iterator[Choice]:
    values = dict.fromkeys(getattr(of, axis) for of in sweep.rows if of.baseline is None)
    for value in values:
        choice = replace(start, **{axis: value})
        if choice != start and choice in sweep.rows:
            yield choice


def _draw(panel: Panel, line: _Line, places: Sequence[float], values: Sequence[float]) -> None:
    panel.plot(
        places,
        values,
        color=line.colour,
        linestyle=line.dashes,
        linewidth=line.width,
        marker="o",
        markersize=3.5,
        label=line.label,
    )


def _tick(axis: Axis, subs: Sequence[float]) -> None:
    """Tick a logarithmic axis between the powers of ten too, in plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")
