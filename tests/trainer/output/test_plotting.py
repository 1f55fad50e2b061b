from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kshot.trainer.errors import TrainingError
from kshot.trainer.output import plotting
from kshot.trainer.output.plotting import check_matplotlib, figure_of, write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def line(figure: Figure) -> None:
    axes = figure.subplots()
    axes.plot([0, 1, 2], [1, 3, 2])
    axes.set_title("a line")


def test_equal_figures_are_equal_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.png", "two.png")]
    for path in paths:
        write_png(path, figure_of(line))

    one, two = (path.read_bytes() for path in paths)
    assert one == two
    assert one.startswith(PNG_SIGNATURE)
    assert b"tEXt" not in one


def test_the_size_is_in_inches() -> None:
    figure = figure_of(line, width=4, height=3)

    assert tuple(figure.get_size_inches()) == (4, 3)


def test_a_plot_replaces_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    path.write_bytes(b"old")

    write_png(path, figure_of(line))

    assert path.read_bytes().startswith(PNG_SIGNATURE)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_plot_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plot.png"
    path.write_bytes(b"old")
    figure = figure_of(line)

    def fill(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fill)
    with pytest.raises(TrainingError, match=r"plot\.png could not be written: No space left"):
        write_png(path, figure)

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TrainingError, match="could not be written: there is no folder"):
        write_png(tmp_path / "none" / "plot.png", figure_of(line))


def test_without_matplotlib_the_pip_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotting, "find_spec", lambda _name: None)

    with pytest.raises(TrainingError, match=r"pip install '.*\[train\]'"):
        check_matplotlib()
    with pytest.raises(TrainingError, match="plots need 'matplotlib'"):
        figure_of(line)
