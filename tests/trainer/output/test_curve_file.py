import json
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from kshot.trainer.errors import TrainingError
from kshot.trainer.output import curve_file
from kshot.trainer.output.curve_file import CURVES_FILE, PLOT_FILE, CurveFile
from kshot.trainer.output.curve_plot import draw_curves
from kshot.trainer.output.plotting import figure_of


def say_nothing(sentence: str) -> None:
    raise AssertionError(sentence)


def open_curves(folder: Path, meta_iteration: int = -1) -> CurveFile:
    return CurveFile.open(folder, "a recipe", meta_iteration, say_nothing)


def written(folder: Path) -> list[Mapping[str, float | None]]:
    points: list[Mapping[str, float | None]] = json.loads((folder / CURVES_FILE).read_bytes())[
        "points"
    ]
    return points


def test_every_point_is_written_and_drawn_at_once(tmp_path: Path) -> None:
    curves = open_curves(tmp_path)
    pictures = []
    for meta_iteration, accuracy in ((0, 0.25), (10, 0.5)):
        curves.add(meta_iteration, {"accuracy/test/support": accuracy})
        pictures.append((tmp_path / PLOT_FILE).read_bytes())

        assert written(tmp_path)[-1] == {
            "meta_iteration": meta_iteration,
            "accuracy/test/support": accuracy,
        }
    assert pictures[0] != pictures[1]
    with Image.open(tmp_path / PLOT_FILE) as picture:
        assert picture.size == (1080, 540)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CURVES_FILE, PLOT_FILE]


def test_points_after_the_checkpoint_are_dropped(
    tmp_path: Path,
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder, ends in ((whole, [(-1, (0, 5, 10))]), (cut, [(-1, (0, 5, 9)), (5, (10,))])):
        folder.mkdir()
        for meta_iteration, counts in ends:
            curves = open_curves(folder, meta_iteration)
            for count in counts:
                curves.add(count, {"squared_error/8_steps": 4.0 / (count + 1)})

    assert [point["meta_iteration"] for point in written(cut)] == [0, 5, 10]
    for name in (CURVES_FILE, PLOT_FILE):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_the_first_point_is_dropped_before_its_checkpoint(
    tmp_path: Path,
) -> None:
    open_curves(tmp_path).add(0, {"accuracy/test/support": 0.25})

    assert open_curves(tmp_path, -1).points == []
    assert len(open_curves(tmp_path, 1).points) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"3",
        b"\xff",
        b'{"points": 3}',
        b'{"points": [3]}',
        b'{"points": [{"accuracy": 1}]}',
        b'{"points": [{"meta_iteration": "1"}]}',
        b'{"points": [{"meta_iteration": 1, "accuracy": NaN}]}',
        b'{"points": [{"meta_iteration": null}]}',
        b"[" * 100_000,
    ],
)
def test_damaged_points_are_void(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CURVES_FILE).write_bytes(content)

    curves = open_curves(tmp_path, 5)
    curves.add(6, {"accuracy/test/support": 0.5})

    assert [point["meta_iteration"] for point in written(tmp_path)] == [6]


def test_what_is_not_finite_is_null_and_a_gap(tmp_path: Path) -> None:
    curves = open_curves(tmp_path)
    for count, error in enumerate((4.0, float("inf"), float("nan"), 0.0, 2.0)):
        curves.add(count, {"squared_error/8_steps": error})

    assert [point["squared_error/8_steps"] for point in written(tmp_path)] == [4, None, None, 0, 2]
    assert len(open_curves(tmp_path, 4).points) == 5


def test_a_plot_has_a_line_for_each_part_and_mode() -> None:
    points = [
        {
            "meta_iteration": count,
            **{
                f"accuracy/{part}/{mode}": count / 4
                for part in ("train", "test")
                for mode in ("support_and_query", "transductive")
            },
            "squared_error/8_steps": 1.0 + count,
        }
        for count in range(3)
    ]

    figure = figure_of(lambda figure: draw_curves(figure, "a recipe", points))

    accuracy, error = figure.axes
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == [
        "train, support and query",
        "train, transductive",
        "test, support and query",
        "test, transductive",
    ]
    lines = accuracy.get_lines()
    assert [line.get_linestyle() for line in lines] == ["--", "--", "-", "-"]
    assert lines[0].get_color() == lines[2].get_color() != lines[1].get_color()
    assert list(lines[0].get_xdata()) == [0, 1, 2]
    assert list(lines[0].get_ydata()) == [0, 0.25, 0.5]
    assert [axes.get_xlabel() for axes in (accuracy, error)] == ["meta-iteration"] * 2
    assert [axes.get_ylabel() for axes in (accuracy, error)] == ["accuracy", "squared error"]
    assert [axes.get_yscale() for axes in (accuracy, error)] == ["linear", "log"]
    assert figure.get_suptitle() == "a recipe"


def test_numbers_are_written_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise TrainingError("plots need 'matplotlib'")

    monkeypatch.setattr(curve_file, "check_matplotlib", missing)
    said: list[str] = []
    curves = CurveFile.open(tmp_path, "a recipe", -1, said.append)
    for count in range(3):
        curves.add(count, {"accuracy/test/support": 0.5})

    assert said == ["plots need 'matplotlib'; the learning curves are written as curves.json alone"]
    assert [path.name for path in tmp_path.iterdir()] == [CURVES_FILE]


@pytest.mark.parametrize(("size_bytes", "name"), [(10, CURVES_FILE), (1000, PLOT_FILE)])
def test_a_full_disk_leaves_the_curves(tmp_path: Path, size_bytes: int, name: str) -> None:
    curves = open_curves(tmp_path)
    curves.add(0, {"accuracy/test/support": 0.5})
    before = (tmp_path / name).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        with pytest.raises(TrainingError, match=rf"{name} could not be written: File too large$"):
            curves.add(1, {"accuracy/test/support": 0.75})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert (tmp_path / name).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [CURVES_FILE, PLOT_FILE]
