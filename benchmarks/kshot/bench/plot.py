"""Plots as PNG files, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_plot", "draw_bars", "write_plot"]


def check_plot(path: Path | None) -> None:
    """See before a measurement that its plot can be written; None is no plot and fine.

    Raises ``UsageError`` when the file cannot be made there, ``ClickException`` without matplotlib.
    """
    if path is None:
        return
    if find_spec("matplotlib") is None:
        raise click.ClickException(
            "--plot needs 'matplotlib', which is not installed: pip install 'kshot[bench]'"
        )
    if path.suffix.lower() != ".png":
        raise click.UsageError(f"--plot is {path}, wanted a file that ends in .png")
    if path.is_dir():
        raise click.UsageError(f"--plot is {path}, a folder, wanted a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise click.UsageError(
            f"--plot is {path}, which cannot be written: {error.strerror}"
        ) from None


def write_plot(path: Path, draw: Callable[[Figure], None]) -> None:
    """Draw a figure without a display and write it as a PNG; an older file is replaced at once.

    Raises ``OSError`` when the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    draw(figure)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            figure.savefig(stream, format="png")
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def draw_bars(figure: Figure, values: Mapping[str, float], title: str) -> None:
    """Draw one bar for each name, with its value."""
    axes = figure.subplots()
    bars = axes.barh(list(values), list(values.values()))
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_title(title)
