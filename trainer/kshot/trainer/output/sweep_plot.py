"""Plots of a sweep: accuracy over steps and over milliseconds, in each batch-norm mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from kshot.bundle import BatchNormMode, Head, Preconditioner, Scope
from kshot.trainer.evaluate.sweep import SweepRow, Variant
from kshot.trainer.output.plotting import figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Colour, marker and line width of each preconditioner. Thick lines are drawn first, so that thin
# ones show; colour-blind eyes tell the colours apart (Okabe and Ito 2008).
STYLES = {
    Preconditioner.CARRIED: ("#0072B2", "o", 3.2),
    Preconditioner.FROZEN: ("#D55E00", "s", 2.4),
    Preconditioner.FRESH: ("#009E73", "^", 1.7),
    Preconditioner.SGD: ("#CC79A7", "D", 1.0),
}
LINES: dict[Head, Literal["-", "--", ":", "-."]] = {
    Head.TRAINED: "-",
    Head.PROTOTYPE: "--",
    Head.ZERO: ":",
    Head.RIDGE: "-.",
}
FILLS: dict[Scope, Literal["full", "none"]] = {Scope.ALL: "full", Scope.HEAD: "none"}
GREY = "#555555"


def sweep_figure(title: str, rows: Sequence[SweepRow]) -> Figure:
    """Draw a sweep: a column for each mode, steps above milliseconds."""
    width = max(4.4 * len({row.mode for row in rows}), 9.0)  # at least that of the legend
    return figure_of(lambda figure: _draw(figure, title, rows), width=width, height=8.5)


def _draw(figure: Figure, title: str, rows: Sequence[SweepRow]) -> None:
    from matplotlib.ticker import LogLocator

    modes = [mode for mode in BatchNormMode if any(row.mode == mode for row in rows)]
    step_counts = sorted({row.result.step_count for row in rows})
    panels = figure.subplots(2, len(modes), sharey=True, squeeze=False)
    for column, mode in enumerate(modes):
        of_mode = [row for row in rows if row.mode == mode]
        above, below = panels[0][column], panels[1][column]
        for variant in dict.fromkeys(row.variant for row in of_mode):
            line = [row for row in of_mode if row.variant == variant]
            _draw_line(above, variant, line, [row.result.step_count for row in line])
            _draw_line(below, variant, line, [row.result.ms_per_task for row in line])
        above.set_title(mode.value.replace("_", " "))
        # Linear from 0 to 1, so that no step at all has its place.
        above.set_xscale("symlog", linthresh=1, linscale=0.5)
        above.set_xlim(-0.2, max(step_counts[-1], 1) * 1.25)
        above.set_xticks(step_counts, [str(count) for count in step_counts])
        above.set_xlabel("inner steps")
        below.set_xscale("log")
        low, high = below.get_xlim()
        # Ticks between two powers of ten too, and not more than fit.
        ticks = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 5, 7)
        below.xaxis.set_major_locator(LogLocator(subs=ticks))
        below.xaxis.set_major_formatter("{x:g}")
        below.set_xlabel("milliseconds per task, adaptation and answers")
        for panel in (above, below):
            panel.minorticks_off()
            panel.grid(alpha=0.3)
    for row_of_panels in panels:
        row_of_panels[0].set_ylabel("accuracy, %")
    handles = _legend([row.variant for row in rows])
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    figure.suptitle(title)


def _draw_line(
    panel: Panel, variant: Variant, rows: Sequence[SweepRow], places: Sequence[float]
) -> None:
    accuracies = [100 * row.result.accuracy for row in rows]
    widths = [100 * row.result.ci95 for row in rows]
    # A symmetric interval may reach beyond 0 or 100 %, an accuracy does not.
    below = [min(width, of) for of, width in zip(accuracies, widths, strict=True)]
    above = [min(width, 100 - of) for of, width in zip(accuracies, widths, strict=True)]
    if variant.preconditioner is None or variant.head is None or variant.scope is None:
        errors = (below, above)
        panel.errorbar(places, accuracies, errors, fmt="*", color=GREY, markersize=10, zorder=4)
        return
    low = [of - width for of, width in zip(accuracies, below, strict=True)]
    high = [of + width for of, width in zip(accuracies, above, strict=True)]
    colour, marker, width = STYLES[variant.preconditioner]
    panel.fill_between(places, low, high, color=colour, alpha=0.1, linewidth=0)
    panel.plot(
        places,
        accuracies,
        color=colour,
        linestyle=LINES[variant.head],
        linewidth=width,
        marker=marker,
        markersize=4,
        fillstyle=FILLS[variant.scope],
    )


def _legend(variants: Sequence[Variant]) -> list[Line2D]:
    """Explain colours, kinds of lines, and hollow markers if there are two scopes."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label=kind.value, color=colour, linewidth=width, marker=marker)
        for kind, (colour, marker, width) in STYLES.items()
        if any(variant.preconditioner is kind for variant in variants)
    ]
    handles += [
        Line2D([], [], label=f"head {head}", color=GREY, linestyle=line)
        for head, line in LINES.items()
        if any(variant.head is head for variant in variants)
    ]
    scopes = {variant.scope for variant in variants} - {None}
    handles += [
        Line2D([], [], label=f"scope {scope}", color=GREY, ls="", marker="o", fillstyle=fill)
        for scope, fill in FILLS.items()
        if len(scopes) > 1 and scope in scopes
    ]
    if any(variant.baseline for variant in variants):
        handles.append(Line2D([], [], label="NIL", color=GREY, linestyle="", marker="*"))
    return handles
