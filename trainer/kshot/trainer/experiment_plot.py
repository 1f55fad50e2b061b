"""An experiment as a picture: its panels side by side, the legend below them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from kshot.trainer.experiment import START, Experiment
from kshot.trainer.experiment_panels import DRAWERS, Look, PanelData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kshot.trainer.experiment_run import Outcome

__all__ = ["draw_experiment", "figure_size"]

# Told apart by colour-blind eyes too (Okabe and Ito 2008), then once more by dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_LEGEND_COLUMNS = 5
CHARACTERS_PER_INCH = 12
LEGEND_HANDLE_CHARACTERS = 8  # a line's sample, and the space around it


def figure_size(experiment: Experiment) -> tuple[float, float]:
    """Return width and height in inches, the legend's included."""
    width = max(9.0, 4.6 * len(experiment.panels))
    looks = _looks(experiment)
    rows = -(-len(looks) // _legend_columns([look.label for look in looks.values()], width))
    return width, 4.8 + 0.25 * rows


def draw_experiment(
    experiment: Experiment, outcomes: Sequence[Outcome], subtitle: str
) -> Callable[[Figure], None]:
    """Return what draws the panels of an experiment, of those arms that were run."""
    lines: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        lines.setdefault(outcome.arm.line, []).append(outcome)
    (start,) = lines.pop(START)
    looks = _looks(experiment)
    part = "test" if experiment.final is None else experiment.final.part or "test"

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(experiment.panels), squeeze=False)[0]
        for axes, panel in zip(panels, experiment.panels, strict=True):
            shown = {name: lines[name] for name in panel.arms if name in lines}
            axes.set_title(panel.title, fontsize="medium")
            axes.set_xlabel(panel.x_label)
            axes.set_xscale(panel.x_scale)
            axes.grid(alpha=0.3)
            if shown:
                DRAWERS[panel.kind](axes, PanelData(shown, start, looks, part))
            else:
                axes.set_xticks([])
                axes.set_yticks([])
                axes.text(0.5, 0.5, "not run", ha="center", transform=axes.transAxes)
        handles = {
            label: handle
            for axes in panels
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=_legend_columns(handles, figure.get_figwidth()),
            fontsize="small",
        )
        wrapped = fill(subtitle, int(CHARACTERS_PER_INCH * figure.get_figwidth()))
        figure.suptitle(f"{experiment.title}\n{wrapped}", fontsize="medium")

    return draw


def _legend_columns(labels: Iterable[str], width: float) -> int:
    """Return how many columns of such labels fit in a width in inches."""
    longest = max(map(len, labels), default=0) + LEGEND_HANDLE_CHARACTERS
    return min(max(int(CHARACTERS_PER_INCH * width / longest), 1), MOST_LEGEND_COLUMNS)


def _looks(experiment: Experiment) -> Mapping[str, Look]:
    """Give lines of one title one look, whichever panel they are in."""
    titles = list(dict.fromkeys(table.title for table in experiment.arms))
    looks = {
        title: Look(
            title,
            COLOURS[number % len(COLOURS)],
            DASHES[number // len(COLOURS) % len(DASHES)],
            MARKERS[number % len(MARKERS)],
        )
        for number, title in enumerate(titles)
    }
    return {table.name: looks[table.title] for table in experiment.arms}
