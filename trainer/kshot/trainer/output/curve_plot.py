"""Plots of learning curves: a line for each part of the data and each batch-norm mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABSCISSA = "meta_iteration"
# All other keys of a point are measurements, `<quantity>/<part>/<mode>` or `<quantity>/<mode>`.
CurvePoint = Mapping[str, float | None]

LOGARITHMIC = ("squared_error",)


def draw_curves(figure: Figure, title: str, points: Sequence[CurvePoint]) -> None:
    """Draw every measurement over the meta-iterations, each quantity on its own axes.

    A mode has one color; curves of training classes are dashed; None is a gap.
    """
    by_quantity: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for point in points for name in point if name != ABSCISSA):
        by_quantity.setdefault(name.partition("/")[0], []).append(name)
    all_axes = figure.subplots(1, max(1, len(by_quantity)), squeeze=False)[0]
    for axes, (quantity, names) in zip(all_axes, by_quantity.items(), strict=False):
        _draw_quantity(axes, quantity, names, points)
    figure.suptitle(title)


def _draw_quantity(
    axes: Axes, quantity: str, names: Sequence[str], points: Sequence[CurvePoint]
) -> None:
    modes = list(dict.fromkeys(name.rpartition("/")[2] for name in names))
    for name in names:
        _, *part, mode = name.split("/")
        shown = [point for point in points if name in point]
        axes.plot(
            [_number(point[ABSCISSA]) for point in shown],
            [_number(point[name]) for point in shown],
            color=f"C{modes.index(mode) % 10}",
            linestyle="--" if part == ["train"] else "-",
            marker=".",
            label=", ".join([*part, mode]).replace("_", " "),
        )
    axes.set_xlabel("meta-iteration")
    axes.set_ylabel(quantity.replace("_", " "))
    if quantity in LOGARITHMIC:
        axes.set_yscale("log", nonpositive="mask")
    axes.grid(alpha=0.3)
    axes.legend()


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
