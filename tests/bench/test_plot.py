"""Plots replace files whole, and errors come before the measurement."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from matplotlib.figure import Figure
from PIL import Image

from kshot.bench import plot
from kshot.bench.plot import check_plot, draw_bars
from kshot.trainer.output.plotting import figure_of, write_png


def test_a_plot_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "bars.png"
    path.write_bytes(b"an older file")

    write_png(
        path, figure_of(lambda figure: draw_bars(figure, {"one": 1.0, "two": 2.5}, "numbers"))
    )

    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors() or []) > 2
    assert [file.name for file in tmp_path.iterdir()] == ["bars.png"]


def test_a_failed_drawing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "bars.png"
    path.write_bytes(b"an older file")

    def fail_when_rendered(figure: Figure) -> None:
        figure.text(0.5, 0.5, "$\\frac{$")  # no formula

    with pytest.raises(ValueError, match="frac"):
        write_png(path, figure_of(fail_when_rendered))

    assert path.read_bytes() == b"an older file"
    assert [file.name for file in tmp_path.iterdir()] == ["bars.png"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plot.pdf", "--plot: expected a file that ends in .png, got"),
        ("nowhere/plot.png", "--plot: .*: there is no folder .*mkdir -p"),
        ("folder.png", "--plot: .*: expected a file, got a directory"),
        ("file/plot.png", "--plot: .*: expected a folder, .*file is a file"),
    ],
)
def test_an_unwritable_plot_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()

    with pytest.raises(click.UsageError, match=words):
        check_plot(tmp_path / name)


def test_a_writable_plot_or_none_passes(tmp_path: Path) -> None:
    check_plot(None)
    check_plot(tmp_path / "plot.png")

    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda _name: None)

    with pytest.raises(click.ClickException, match=r"pip install '.*\[bench\]'"):
        check_plot(tmp_path / "plot.png")
