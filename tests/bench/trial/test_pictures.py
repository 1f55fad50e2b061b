from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

from kshot.bench.trial.pictures import read_pictures
from kshot.client import InputError

MakeFolder = Callable[..., Path]


def test_every_picture_is_asked_once(make_folder: MakeFolder) -> None:
    pictures = read_pictures(make_folder(blue=7, red=6), 100)

    assert (pictures.fold_count, pictures.found_count) == (5, 13)
    asked = [pictures.split(fold)[1] for fold in range(5)]
    assert sorted(np.concatenate(asked)) == list(range(13))
    for fold, of in enumerate(asked):
        learned, _ = pictures.split(fold)
        assert set(learned) | set(of) == set(range(13))
        assert not set(learned) & set(of)
    assert pictures.least_examples == 4


def test_fewer_examples_are_the_first_of_more(make_folder: MakeFolder) -> None:
    pictures = read_pictures(make_folder(blue=7, red=6), 100)
    few, many = pictures.split(0, 1)[0], pictures.split(0, 3)[0]

    assert pictures.classes[few].tolist() == [0, 1]
    assert set(few) < set(many)


def test_large_folders_are_drawn_from(make_folder: MakeFolder) -> None:
    folder = make_folder(blue=9, red=3)

    pictures = read_pictures(folder, 8)

    assert np.bincount(pictures.classes).tolist() == [4, 3]
    assert pictures.found_count == 12
    assert read_pictures(folder, 8).names == pictures.names
    assert pictures.names[-1].startswith("red/")


def test_folders_that_cannot_be_tried_are_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected one subdirectory of images per class, got none"):
        read_pictures(tmp_path / "empty", 10)
    with pytest.raises(InputError, match="no such directory"):
        read_pictures(tmp_path / "nowhere", 10)
    with pytest.raises(InputError, match="got only 'blue'"):
        read_pictures(make_folder(blue=3), 10)
    folder = make_folder(red=1)
    with pytest.raises(
        click.ClickException, match=r"mine/red: expected at least 2 images .* got 1"
    ):
        read_pictures(folder, 10)


def test_damaged_files_are_named(make_folder: MakeFolder) -> None:
    folder = make_folder(blue=3, red=3)
    (folder / "red" / "0.png").write_bytes((folder / "red" / "0.png").read_bytes()[:60])

    with pytest.raises(click.ClickException, match=r"got red/0.png is damaged.*; repair"):
        read_pictures(folder, 10)
