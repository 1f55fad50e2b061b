"""Plots: matplotlib figures, drawn without a display and written as PNG files."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kshot.local import destination, pip_install
from kshot.trainer.errors import TrainingError, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 120


def check_matplotlib() -> None:
    """Raise `TrainingError` with the pip command when matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise TrainingError(
            f"plots need 'matplotlib', which is not installed: {pip_install('train')}"
        )


def figure_of(draw: Callable[[Figure], None], *, width: float = 9.0, height: float = 4.5) -> Figure:
    """Make a figure of this size in inches and let `draw` fill it, in matplotlib's own style.

    Raises `TrainingError` without matplotlib.
    """
    check_matplotlib()
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context("default"):  # whatever a user's matplotlibrc says
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
        draw(figure)
    return figure


def write_png(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG in the place of an older file; raises `TrainingError` on failure.

    Equal figures give equal bytes with the same matplotlib: the file does not tell when or by what
    it was made.
    """
    from matplotlib import style

    with writing(path), destination(path) as stream, style.context("default"):
        figure.savefig(stream, format="png", metadata={"Software": None})
