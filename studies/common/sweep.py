"""A sweep over the choices of an adaptation, as its result holds it, and its picture.

The picture has single changes of the defaults over steps and milliseconds, by batch-norm mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.common import plots
from studies.common.plots import BLUE, GREEN, GREY, PINK, RED, SKY, YELLOW, Look
from studies.common.results import Result, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = ("batch_norm_mode", "preconditioner", "head", "scope", "step_count")
# How a line that differs from the defaults on an axis is drawn: dashes, and a colour by its value.
LINES = {
    "preconditioner": ("-", {"carried": BLUE, "frozen": RED, "fresh": GREEN, "sgd": PINK}),
    "head": ("--", {"trained": BLUE, "prototype": YELLOW, "zero": SKY}),
    "scope": (":", {"all": BLUE, "head": GREY}),
}


@dataclass(frozen=True)
class Sweep:
    """The rows of a result, and the bundle's defaults: a value for each of `AXES`.

    Rows have fractions in 0..1, `nll` in nats, milliseconds per task, and the paired difference to
    the defaults, None for these. A row with a `baseline` has only a mode and its steps.
    """

    rows: Sequence[Row]
    defaults: Mapping[str, Any]

    @staticmethod
    def of(result: Result) -> Sweep:
        """Read a result."""
        of, inner = result.settings, result.settings["inner_loop"]
        mode, head, scope = (of[name]["default"] for name in ("batch_norm", "head", "scope"))
        values = mode, inner["preconditioner"], head, scope, inner["step_count"]
        return Sweep(result.rows, dict(zip(AXES, values, strict=True)))

    @property
    def served(self) -> Row:
        """Return the row of the bundle's defaults."""
        (row,) = self.where()
        return row

    def where(self, free: str | None = None, **changes: object) -> list[Row]:
        """Return the rows of the defaults with changes and any value of a free axis.

        They are in the order of their numbers of steps.
        """
        wanted = {axis: changes.get(axis, self.defaults[axis]) for axis in AXES if axis != free}
        rows = (row for row in self.rows if all(row[axis] == wanted[axis] for axis in wanted))
        return sorted(rows, key=lambda row: int(row["step_count"]))

    def baselines(self, mode: str) -> list[Row]:
        """Return the rows that adapt nothing, in a mode."""
        return [row for row in self.rows if row["baseline"] and row["batch_norm_mode"] == mode]

    def best(self) -> Row:
        """Return the most accurate row of the default mode; of equals the defaults or quickest."""
        mode, served = self.defaults["batch_norm_mode"], self.served
        return max(
            (row for row in self.rows if row["batch_norm_mode"] == mode),
            key=lambda row: (row["accuracy"], row is served, -row["ms_per_task"]),
        )


def choice_words(row: Row, defaults: Mapping[str, Any]) -> str:
    """Name what differs from the defaults."""
    if row["baseline"] is not None:
        return f"`{row['baseline']}`"
    changed = [axis for axis in AXES if row[axis] != defaults[axis]]
    said = [f"{axis.removeprefix('batch_norm_')} `{row[axis]}`" for axis in changed]
    if "step_count" in changed:
        said[-1] = step_words(row["step_count"])
    return ", ".join(said) or "the defaults"


def step_words(count: int) -> str:
    """Say a number of steps."""
    return f"{count} step{'' if count == 1 else 's'}"


def plot_sweep(path: Path, result: Result) -> None:
    """Draw a sweep and write it as a PNG.

    Errors are on a logarithmic scale; no error at all is drawn as half a wrong answer.
    """
    sweep, of = Sweep.of(result), result.settings
    modes = sorted({row["batch_norm_mode"] for row in sweep.rows})
    step_counts = sorted({row["step_count"] for row in sweep.rows})
    least = 50 / float(of["tasks"] * of["queries"] * of["way"])
    sizes = f"{of['way']}-way {of['shot']}-shot, {of['tasks']} tasks"

    def error(row: Row) -> float:
        return max(100 * (1 - float(row["accuracy"])), least)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(3, len(modes), sharey="row", squeeze=False)
        for column, mode in enumerate(modes):
            errors, calibration, times = (panels[row][column] for row in range(3))
            for look, rows in _lines(sweep, mode):
                style = {**vars(look), "markersize": 3.5}
                steps, missed = [row["step_count"] for row in rows], list(map(error, rows))
                errors.plot(steps, missed, **style)
                calibration.plot(steps, [max(row["ece"], 1e-3) for row in rows], **style)
                times.plot([row["ms_per_task"] for row in rows], missed, **style)
            for nil in sweep.baselines(mode):
                star = {"color": "black", "markersize": 10, "label": "NIL: no head, no step"}
                errors.plot([0], [error(nil)], "*", zorder=5, **star)
                times.plot([nil["ms_per_task"]], [error(nil)], "*", **star)
            errors.set_title(mode)
            for panel in (errors, calibration):
                plots.step_ticks(panel, step_counts)
            times.set_xscale("log")
            low, high = times.get_xlim()
            plots.log_ticks(times.xaxis, (1, 2, 5) if high < 100 * low else (1, 3))
            times.set_xlabel("milliseconds of a task, adaptation and answers")
        for row, name in enumerate(("error, %", "expected calibration error", "error, %")):
            panels[row][0].set_ylabel(name)
            for panel in panels[row]:
                panel.set_yscale("log")
                plots.log_ticks(panel.yaxis)
                panel.grid(alpha=0.3)
        plots.legend_below(figure, panels[0])
        figure.suptitle(f"{result.provenance.bundle}: {sizes} of {result.more['data']}")

    plots.save_plot(path, draw, width=12.0, height=10.5)


def _lines(sweep: Sweep, mode: str) -> Iterator[tuple[Look, Sequence[Row]]]:
    """Go over the defaults and everything that differs from them on one of three axes."""
    label = "{preconditioner}, head {head}, scope {scope}: the defaults".format(**sweep.defaults)
    yield Look(label, "black", linewidth=2.6), sweep.where("step_count", batch_norm_mode=mode)
    for axis, (dashes, colours) in LINES.items():
        for value in dict.fromkeys(row[axis] for row in sweep.rows if not row["baseline"]):
            rows = sweep.where("step_count", batch_norm_mode=mode, **{axis: value})
            if value != sweep.defaults[axis] and rows:
                label = value if axis == "preconditioner" else f"{axis} {value}"
                yield Look(label, colours[value], dashes, linewidth=1.4), rows
