"""Plots of learning curves: a line for each part of the data and each batch-norm mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ABSCISSA", "CurvePoint", "draw_curves"]

ABSCISSA = "meta_iteration"
# All other keys of a point are measurements, `<quantity>/<part>/<mode>` or `<quantity>/<mode>`.
CurvePoint = Mapping[str, float | None]

LOGARITHMIC = ("squared_error",)


def draw_curves(figure: Figure, title: str, points: Sequence[CurvePoint]) -> None:
    """Draw every measurement over the meta-iterations, each quantity on its own axes.

    A mode has one color; curves of training classes are dashed; None is a gap.
    """
    names = list(dict.fromkeys(name for point in points for name in point if name != ABSCISSA))
    quantities = list(dict.fromkeys(name.partition("/")[0] for name in names))
    all_axes = figure.subplots(1, max(1, len(quantities)), squeeze=False)[0]
    for axes, quantity in zip(all_axes, quantities, strict=False):
        chosen = [name for name in names if name.partition("/")[0] == quantity]
        _draw_quantity(axes, quantity, chosen, points)
    figure.suptitle(title)


def _draw_quantity(
    axes: Axes, quantity: str, names: Sequence[str], points: Sequence[CurvePoint]
) -> None:
    modes = dict.fromkeys(name.rpartition("/")[2] for name in names)
    colors = dict(zip(modes, cycle(f"C{number}" for number in range(10)), strict=False))
    for name in names:
        _, *part, mode = name.split("/")
        shown = [point for point in points if name in point]
        axes.plot(
            [_number(point[ABSCISSA]) for point in shown],
            [_number(point[name]) for point in shown],
            color=colors[mode],
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
