"""Checks of `--plot` before a measurement, and bars."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kshot.local import check_destination, pip_install

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_plot(path: Path | None) -> None:
    """Check before a measurement that its plot can be written; None means no plot.

    Raises `UsageError` when the file cannot be written, `ClickException` without matplotlib.
    """
    if path is None:
        return
    if find_spec("matplotlib") is None:
        raise click.ClickException(
            f"--plot needs 'matplotlib', which is not installed: {pip_install('bench')}"
        )
    if path.suffix.lower() != ".png":
        raise click.UsageError(f"--plot: expected a file that ends in .png, got {path}")
    try:
        check_destination(path)
    except OSError as error:
        raise click.UsageError(f"--plot: {path}: {error.strerror}") from None


def draw_bars(figure: Figure, values: Mapping[str, float], title: str) -> None:
    """Draw one horizontal bar for each name, labelled with its value."""
    axes = figure.subplots()
    bars = axes.barh(list(values), list(values.values()))
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_title(title)
