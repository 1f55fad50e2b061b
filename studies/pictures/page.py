"""The blocks and the picture of docs/pictures.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from studies.common.plots import COLOURS, MARKERS, legend_below, save_plot
from studies.common.results import Result, Row
from studies.pictures.contenders import Kind, read_contenders
from studies.pictures.gathered import Named
from studies.pictures.measure import read_set_rows
from studies.pictures.summary import summary
from studies.pictures.tables import NOTHING, REAL, by_contender, examples
from studies.pictures.tail.result import TAILS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OVERVIEW = (
    "![Accuracy on each set, by examples per class](../studies/results/pictures/overview.png)"
)
CURVE = "![Accuracy over the time of Adapt](../studies/results/pictures/tails.png)"
# The contenders that are drawn; of the rivals of each kind, the best of each line.
DRAWN = ("photos", "drawings", "omniglot", "omniglot-best", "cifar-fs")
BEST = {Kind.RIVAL: "best trivial classifier", Kind.FROZEN: "best frozen + LR"}


def page_blocks(
    results: Mapping[str, Result], tables: Mapping[str, Named] | None = None
) -> Mapping[str, str]:
    """Return the text of each block, from the results of trials and the gathered rows."""
    tables = tables or {}
    return {
        "wanted": summary(results, tables) if results or any(tables.values()) else NOTHING,
        "pictures overview": OVERVIEW if results else NOTHING,
        "pictures curve": CURVE if tables.get(TAILS) else NOTHING,
    }


def draw_overview(path: Path, results: Mapping[str, Result]) -> None:
    """Draw accuracies on the real sets, a panel for each number of examples."""
    rows = list(read_set_rows(table=REAL).values())
    shots = rows[0].shots
    names = [*DRAWN, *BEST.values()]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(shots), sharey=True)
        for axes, shot in zip(panels, shots, strict=True):
            found = [drawn_rows(results.get(f"{row.name}-{shot}shot")) for row in rows]
            for number, name in enumerate(names):
                points = [(place, of[name]) for place, of in enumerate(found) if name in of]
                if not points:
                    continue
                look = number % len(COLOURS)
                axes.errorbar(
                    [100 * row["accuracy"] for _, row in points],
                    [place for place, _ in points],
                    xerr=[100 * row["ci95"] for _, row in points],
                    color=COLOURS[look],
                    fillstyle="full" if number == look else "none",
                    label=_label(name),
                    linestyle="none",
                    marker=MARKERS[look],
                    zorder=3 + len(names) - number,
                )
            axes.set_yticks(range(len(rows)), [row.title for row in rows])
            axes.set_xlabel(f"accuracy, %, {examples(shot)}")
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.grid(axis="x", alpha=0.3)
        legend_below(figure, panels)

    save_plot(path, draw, width=11.0, height=5.0)


def drawn_rows(result: Result | None) -> Mapping[str, Row]:
    """Return the rows of a result that are drawn, by the names that they are drawn under."""
    found = by_contender(result)
    drawn = {name: found[name] for name in DRAWN if name in found}
    for kind, name in BEST.items():
        rivals = [row for of, row in found.items() if read_contenders()[of].kind == kind]
        if rivals:
            drawn[name] = max(rivals, key=lambda row: float(row["accuracy"]))
    return drawn


def _label(name: str) -> str:
    return read_contenders()[name].title.replace("`", "") if name in DRAWN else name
