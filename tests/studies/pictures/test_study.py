from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from studies.common.results import read_result, result_path
from studies.pictures import study
from studies.pictures.contenders import Contender, Kind
from studies.pictures.measure import SetRow
from studies.pictures.sets import PictureSet
from studies.pictures.study import command

CONTENDERS = (
    Contender("omniglot", "`omniglot`", Kind.SERVED, "omniglot", {"step_count": 1}),
    Contender("colour-lr", "colours", Kind.RIVAL, "colour-lr"),
    Contender("frozen", "frozen", Kind.FROZEN, "omniglot"),
)
NAMES = tuple(one.name for one in CONTENDERS)
ROW = SetRow("grocery", "", "grocery.tar", 3, (1, 3), 2, (3, 3), NAMES)


@pytest.fixture
def folder(
    tmp_path: Path,
    make_pictures: Callable[[], PictureSet],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Write a folder of class folders, and let few contenders solve few tasks of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))  # without a compiler the server starts at once
    monkeypatch.setattr(study, "read_set_rows", lambda **_: {"grocery": ROW})
    known: Mapping[str, Contender] = {one.name: one for one in CONTENDERS}
    monkeypatch.setattr(study, "read_contenders", lambda: known)
    pictures = make_pictures()
    for number, (label, data) in enumerate(zip(pictures.classes, pictures.pictures, strict=True)):
        path = tmp_path / "mine" / pictures.class_names[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "mine"


def test_folder_is_measured_through_a_server(folder: Path, tmp_path: Path) -> None:
    words = ["--folder", str(folder), "--out", str(tmp_path / "out"), "--device", "cpu"]

    first = CliRunner().invoke(command, words)
    again = CliRunner().invoke(command, words)

    assert (first.exit_code, again.exit_code) == (0, 0), first.output
    # three pictures and two queries of four
    assert "mine-3shot: left out; class" in first.stderr
    assert "left out; omniglot: expected a bundle with an encoder" in first.stderr
    assert "mine-1shot: measured before" in again.stderr
    result = read_result(result_path("pictures", "mine-1shot", tmp_path / "out"))
    served, colours = result.rows
    assert (served["contender"], served["rival"]) == ("omniglot", "colour-lr")
    assert colours["accuracy"] == 1.0
    assert result.settings["tasks"] == 3


def test_some_contenders_leave_the_others_results(folder: Path, tmp_path: Path) -> None:
    words = ["--folder", str(folder), "--out", str(tmp_path / "out"), "--device", "cpu"]

    for by in ("colour-lr", "omniglot"):
        done = CliRunner().invoke(command, [*words, "--by", by])
        assert done.exit_code == 0, done.output
    refused = CliRunner().invoke(command, [*words, "--by", "hog"])

    result = read_result(result_path("pictures", "mine-1shot", tmp_path / "out"))
    assert [row["contender"] for row in result.rows] == ["omniglot", "colour-lr"]
    assert "--by: expected some of omniglot, colour-lr, frozen, got 'hog'" in refused.stderr


def test_folders_do_not_replace_results(folder: Path) -> None:
    refused = CliRunner().invoke(command, ["--folder", str(folder)])

    assert refused.exit_code == 2
    assert "add --out DIR" in refused.stderr
