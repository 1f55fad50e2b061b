"""The demonstration of `make demo`: its pictures and its table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.demo.__main__ import main
from examples.demo.pictures import SIDE, Subject, digits, draw_task, own_pictures, scenes


def test_digits_are_sent_as_they_are() -> None:
    subject = digits()

    assert sum(map(len, subject.classes.values())) == 1797
    (size,) = {one.size for one in subject.classes["3"] if isinstance(one, Image.Image)}
    assert size == (8, 8)


def test_squares_of_a_picture_do_not_overlap() -> None:
    squares = scenes().classes["astronaut"]

    pixels = [np.asarray(one) for one in squares if isinstance(one, Image.Image)]
    assert {one.shape for one in pixels} == {(SIDE, SIDE, 3)}
    assert len({one.tobytes() for one in pixels}) == len(squares) == (512 // SIDE) ** 2
    assert all(len(found) > 5 + 5 for found in scenes().classes.values())


def test_a_task_asks_about_other_pictures() -> None:
    numbered = {
        name: [Image.new("L", (1, 1), 20 * row + column) for column in range(8)]
        for row, name in enumerate("abcdef")
    }

    task = draw_task(Subject("numbers", "drawings", numbered, 1), 5, seed=0)

    shown = [one.getpixel((0, 0)) for one in task.support]
    asked = [one.getpixel((0, 0)) for one in task.queries]
    assert len(set(task.labels)) == 5
    assert (len(shown), len(asked)) == (25, 15)
    assert not set(shown) & set(asked)
    assert task.truth == [label for label in sorted(set(task.labels)) for _ in range(3)]


def test_own_pictures_are_classes_with_enough_of_them(tmp_path: Path) -> None:
    for name, count in (("cat", 6), ("dog", 7), ("few", 5)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (900, 30)).save(tmp_path / name / f"{number}.png")

    subject = own_pictures(tmp_path)

    assert sorted(subject.classes) == ["cat", "dog"]
    assert {one.size for one in draw_task(subject, 5, seed=0).queries} == {(320, 11)}
    (tmp_path / "dog" / "0.png").unlink()
    (tmp_path / "dog" / "1.png").unlink()
    with pytest.raises(SystemExit, match="expected two classes of 6 pictures or more"):
        own_pictures(tmp_path)


def test_a_folder_that_is_none_of_pictures_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    for name in ("one/cat", "texts/cat", "texts/dog"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for number in range(6):
            (folder / f"{number}.png").write_text("text")

    for name, problem in (
        ("missing", "missing: no such directory: expected one subdirectory per class"),
        ("file", "file: not a directory: expected one subdirectory per class"),
        ("empty", "empty: expected one subdirectory of images per class, got none"),
        ("one", "one: expected at least two subdirectories with images, got only 'cat'"),
        ("texts", "texts/cat/0.png: not an image: expected PNG, JPEG or WebP"),
    ):
        with pytest.raises(SystemExit, match=problem):
            main(["--pictures", str(tmp_path / name)])


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(6):
            (tmp_path / name / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")

    with pytest.raises(SystemExit, match=r"\d.png: "):
        draw_task(own_pictures(tmp_path), 5, seed=0)
