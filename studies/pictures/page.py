"""The tables and the picture of docs/pictures.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

from studies.common.page import table
from studies.common.plots import COLOURS, MARKERS, legend_below, save_plot
from studies.common.results import Result, Row
from studies.pictures.contenders import Kind, read_contenders
from studies.pictures.measure import SetRow, read_set_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY = "pictures"
NOTHING, NONE = "Not measured yet.", "-"
REAL = "pictures"
OVERVIEW = (
    "![Accuracy of every contender on each set, by examples per class]"
    "(../studies/results/pictures/overview.png)"
)
AHEAD_HEAD = ("", "examples", "best rival")
REDUCED = "-reduced"


def result_names() -> Sequence[str]:
    """Return the names of all results, in the order of the rows."""
    return [name for row in read_set_rows().values() for name, _ in _named(row)]


def page_blocks(results: Mapping[str, Result]) -> Mapping[str, str]:
    """Return the text of each block."""
    real, more = read_set_rows(table=REAL), read_set_rows(table="more")
    shots = next(iter(real.values())).shots
    blocks = {
        f"pictures {shot}-shot": _accuracies([*real.values(), *more.values()], shot, results)
        for shot in shots
    }
    return {
        "pictures overview": OVERVIEW if results else NOTHING,
        **blocks,
        "pictures ahead": _ahead(real.values(), results),
        "pictures times": _times(real.values(), results),
        "drawings": _drawings(read_set_rows(table="drawings").values(), results),
        "canvases": _canvases(read_set_rows(table="canvases").values(), results),
    }


def draw_overview(path: Path, results: Mapping[str, Result]) -> None:
    """Draw every contender's accuracy on the real sets, a panel for each number of examples."""
    rows = list(read_set_rows(table=REAL).values())
    shots = rows[0].shots

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(shots), sharey=True)
        for axes, shot in zip(panels, shots, strict=True):
            found = {
                row.title: _by_contender(results.get(f"{row.name}-{shot}shot")) for row in rows
            }
            for number, (name, title) in enumerate(_competing(found.values()).items()):
                points = [
                    (place, of[name]) for place, of in enumerate(found.values()) if name in of
                ]
                look = number % len(COLOURS)
                axes.errorbar(
                    [100 * row["accuracy"] for _, row in points],
                    [place for place, _ in points],
                    xerr=[100 * row["ci95"] for _, row in points],
                    color=COLOURS[look],
                    fillstyle="full" if number == look else "none",
                    label=title.replace("`", ""),
                    linestyle="none",
                    marker=MARKERS[look],
                )
            axes.set_yticks(range(len(rows)), list(found))
            axes.set_xlabel(f"accuracy, %, {_examples(shot)}")
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.grid(axis="x", alpha=0.3)
        legend_below(figure, panels)

    save_plot(path, draw, width=11.0, height=5.0)


def _accuracies(rows: Sequence[SetRow], shot: int, results: Mapping[str, Result]) -> str:
    """Lay out accuracies, a line for each set, a column for each contender, the best in bold.

    The mean is over the sets of the first table where all of them were measured.
    """
    found = {row: _by_contender(results.get(f"{row.name}-{shot}shot")) for row in rows}
    found = {row: of for row, of in found.items() if of}
    if not found:
        return NOTHING
    titles = _competing(found.values())
    lines = [[row.title, *_marked_best(of, titles)] for row, of in found.items()]
    real = [of for row, of in found.items() if row.name in read_set_rows(table=REAL)]
    if len(real) == len(read_set_rows(table=REAL)):
        means = [_mean_cell([of.get(name) for of in real]) for name in titles]
        lines.append([f"mean of the {len(real)} sets", *means])
    return table(["", *titles.values()], lines)


def _ahead(rows: Iterable[SetRow], results: Mapping[str, Result]) -> str:
    """Lay out each bundle's paired difference to the best rival, for each set and shot."""
    found = [
        (row.title, shot, of)
        for row in rows
        for name, shot in _named(row)
        if _rival(of := _by_contender(results.get(name)))
    ]
    if not found:
        return NOTHING
    served = {
        name: title
        for name, title in _competing(of for *_, of in found).items()
        if read_contenders()[name].kind == Kind.SERVED
    }
    lines = []
    for title, shot, of in found:
        cells = [_points(of[name]) if name in of else NONE for name in served]
        lines.append([title, str(shot), read_contenders()[_rival(of)].title, *cells])
    return table([*AHEAD_HEAD, *served.values()], lines)


def _rival(of: Mapping[str, Row]) -> str:
    """Return the rival that bundles were compared with, empty where none was."""
    return next((str(row["rival"]) for row in of.values() if row["rival"]), "")


def _times(rows: Iterable[SetRow], results: Mapping[str, Result]) -> str:
    """Lay out the median over sets of milliseconds, by contender and number of examples."""
    by_shot: dict[int, list[Mapping[str, Row]]] = {}
    for row in rows:
        for name, shot in _named(row):
            if of := _by_contender(results.get(name)):
                by_shot.setdefault(shot, []).append(of)
    if not by_shot:
        return NOTHING
    titles = _competing(of for found in by_shot.values() for of in found)
    lines = []
    for name, title in titles.items():
        known = {
            shot: of_shot
            for shot, found in by_shot.items()
            if (of_shot := [of[name] for of in found if name in of])
        }
        adapting = [
            f"{median(row['adapt_ms'] for row in known[shot]):.0f}" if shot in known else NONE
            for shot in by_shot
        ]
        asking = median(row["predict_ms"] for of_shot in known.values() for row in of_shot)
        lines.append([title, *adapting, f"{asking:.1f}"])
    return table(["", *(f"Adapt, {_examples(shot)}" for shot in by_shot), "Predict"], lines)


def _drawings(rows: Iterable[SetRow], results: Mapping[str, Result]) -> str:
    found = {
        f"{row.title}, {_examples(shot)}": of
        for row in rows
        for name, shot in _named(row)
        if (of := _by_contender(results.get(name)))
    }
    if not found:
        return NOTHING
    titles = _competing(found.values())
    lines = [[title, *_marked_best(of, titles)] for title, of in found.items()]
    return table(["", *titles.values()], lines)


def _canvases(rows: Iterable[SetRow], results: Mapping[str, Result]) -> str:
    """Lay out accuracies as sent and reduced by area, and their ratio."""
    found = {row.title: _by_contender(results.get(_named(row)[0][0])) for row in rows}
    found = {title: of for title, of in found.items() if of}
    if not found:
        return NOTHING
    titles = _competing(found.values())
    pairs = [name for name in titles if name + REDUCED in titles]
    shares = [[_share(of, name) for name in pairs] for of in found.values()]
    lines = [
        [title, *_marked_best(of, titles), *cells]
        for (title, of), cells in zip(found.items(), shares, strict=True)
    ]
    return table(
        ["", *titles.values(), *(f"{titles[name]}: as sent / reduced" for name in pairs)], lines
    )


def _share(of: Mapping[str, Row], name: str) -> str:
    if name not in of or name + REDUCED not in of:
        return NONE
    return f"{100 * of[name]['accuracy'] / of[name + REDUCED]['accuracy']:.0f} %"


def _named(row: SetRow) -> Sequence[tuple[str, int]]:
    return [(f"{row.name}-{shot}shot", shot) for shot in row.shots]


def _by_contender(result: Result | None) -> Mapping[str, Row]:
    return {} if result is None else {row["contender"]: row for row in result.rows}


def _competing(found: Iterable[Mapping[str, Row]]) -> Mapping[str, str]:
    """Return the titles of those who competed, in the file's order."""
    names = {name for of in found for name in of}
    return {name: of.title for name, of in read_contenders().items() if name in names}


def _marked_best(of: Mapping[str, Row], names: Iterable[str]) -> list[str]:
    best = max(row["accuracy"] for row in of.values())
    cells = []
    for name in names:
        said = (
            f"{100 * of[name]['accuracy']:.1f} ± {100 * of[name]['ci95']:.1f}"
            if name in of
            else NONE
        )
        cells.append(f"**{said}**" if name in of and of[name]["accuracy"] == best else said)
    return cells


def _mean_cell(rows: Sequence[Row | None]) -> str:
    """Average sets; their tasks are independent, so the squares of the half widths add up."""
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        return NONE
    half_width = sum(row["ci95"] ** 2 for row in known) ** 0.5 / len(known)
    return f"{100 * mean(row['accuracy'] for row in known):.1f} ± {100 * half_width:.1f}"


def _points(row: Row) -> str:
    said = f"{100 * row['ahead']:+.1f} ± {100 * row['ahead_ci95']:.1f}"
    return f"**{said}**" if abs(row["ahead"]) > row["ahead_ci95"] else said


def _examples(shot: int) -> str:
    return "1 example" if shot == 1 else f"{shot} examples"
