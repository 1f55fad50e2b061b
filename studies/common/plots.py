"""The one way to draw: colours, intervals, ticks, legends, and PNG files.

    def draw(figure):
        panels = figure.subplots(1, 2)
        look = Look("Reptile", *LOOKS[0])
        panels[0].errorbar(xs, means, half_widths, **vars(look))
        step_ticks(panels[0], [0, 1, 2, 5])
        legend_below(figure, panels)

    save_plot(result_path("figures", "figure3").with_suffix(".png"), draw, width=9.0, height=5.0)

Equal data give equal bytes with the same matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kshot.trainer.output.plotting import figure_of, write_png

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Colour-blind eyes tell these apart (Okabe and Ito 2008).
BLUE, RED, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#777777"
COLOURS = (BLUE, RED, GREEN, PINK, YELLOW, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# (colour, dashes, marker), for as many lines as a picture may hold.
LOOKS = tuple(
    (colour, dashes, marker)
    for dashes in ("-", "--", ":")
    for colour, marker in zip(COLOURS, MARKERS, strict=True)
)
CHARACTERS_PER_INCH = 12
HANDLE_CHARACTERS = 8  # a line's sample and the space around it


@dataclass(frozen=True)
class Look:
    """How a line is named and drawn, in every panel, by the arguments of matplotlib."""

    label: str
    color: str
    linestyle: str = "-"
    marker: str = "o"
    linewidth: float = 1.5


def step_ticks(axes: Axes, step_counts: Sequence[int]) -> None:
    """Put numbers of inner steps on a logarithmic axis that has a place for 0."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)  # linear from 0 to 1
    axes.set_xlim(-0.15, max(step_counts) * 1.25)
    axes.set_xticks(step_counts, [str(count) for count in step_counts])
    axes.set_xlabel("inner steps")


def log_ticks(axis: Axis, subs: Sequence[float] = (1, 2, 5)) -> None:
    """Tick a logarithmic axis at these multiples of the powers of ten, in plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def legend_below(figure: Figure, panels: Iterable[Axes]) -> None:
    """Explain the labelled lines of all panels below them, each label once."""
    handles: dict[str, Artist] = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    longest = max(map(len, handles), default=0) + HANDLE_CHARACTERS
    fitting = int(CHARACTERS_PER_INCH * figure.get_figwidth() / longest)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(max(fitting, 1), 5),
        fontsize="small",
    )


def save_plot(path: Path, draw: Callable[[Figure], None], *, width: float, height: float) -> None:
    """Draw a figure of this size in inches and write it as a PNG, whole or not at all."""
    write_png(path, figure_of(draw, width=width, height=height))
