import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from kshot.trainer.errors import DataError
from studies.pictures.sets import PictureSet, draw_tasks, picture_set, read_archive, read_folder


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return path


def grouped(class_count: int = 3, group_count: int = 4, size: int = 2) -> PictureSet:
    """Each class has pictures of all groups."""
    return picture_set(
        (str(label), f"speaker{group}", bytes([label, group, number]))
        for label in range(class_count)
        for group in range(group_count)
        for number in range(size)
    )


def test_archive_is_read_in_order_with_groups(tmp_path: Path) -> None:
    files = {"set/b/0.png": b"2", "set/a/1.png": b"1", "set/a/0.png": b"0", "set/NOTES": b""}
    groups = {"set": {"a/0.png": "one", "a/1.png": "two", "b/0.png": "one"}}
    path = write_archive(tmp_path / "set.tar", files)
    (tmp_path / "GROUPS.json").write_text(json.dumps(groups))

    plain, found = read_archive(path), read_archive(path, grouped=True)

    assert (plain.pictures, plain.class_names) == ((b"0", b"1", b"2"), ("a", "b"))
    assert plain.classes.tolist() == [0, 0, 1]
    assert plain.groups is None
    assert found.groups == ("one", "two", "one")
    assert len({plain.digest, found.digest}) == 2


def test_archives_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no archive at all" * 100)

    with pytest.raises(DataError, match="damaged, or not a tar archive"):
        read_archive(tmp_path / "bad.tar")
    with pytest.raises(DataError, match="No such file"):
        read_archive(tmp_path / "none.tar")
    with pytest.raises(DataError, match="holds no"):
        read_archive(write_archive(tmp_path / "empty.tar", {"set/readme": b""}))


def test_folder_has_a_class_per_folder(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(name.encode())

    found = read_folder(tmp_path)

    assert (found.pictures, found.class_names) == ((b"a/1.png", b"b/1.png"), ("a", "b"))


def test_tasks_have_distinct_pictures_of_their_classes() -> None:
    pictures = picture_set((str(n // 10), None, bytes([n])) for n in range(60))

    tasks = draw_tasks(pictures, (4, 2, 3), 5, 0)

    assert len(tasks) == 5
    for task in tasks:
        rows = np.concatenate([task.support, task.queries])
        assert len(set(rows.tolist())) == 4 * 5
        classes = pictures.classes[task.support].reshape(4, 2)
        assert (classes == classes[:, :1]).all()
        assert (pictures.classes[task.queries].reshape(4, 3) == classes[:, :1]).all()
        assert task.query_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    again = draw_tasks(pictures, (4, 2, 3), 5, 0)
    assert all((a.support == b.support).all() for a, b in zip(tasks, again, strict=True))


def test_groups_are_on_one_side_of_a_task() -> None:
    pictures = grouped()
    assert pictures.groups is not None

    for task in draw_tasks(pictures, (3, 4, 3), 20, 0):
        known, asked = ({pictures.groups[row] for row in of} for of in (task.support, task.queries))
        assert not known & asked
        assert len(asked) == 2  # no more than the queries need


def test_sets_that_are_too_small_are_refused() -> None:
    with pytest.raises(DataError, match="expected at least 4 classes, got 3"):
        draw_tasks(grouped(), (4, 1, 1), 1, 0)
    with pytest.raises(DataError, match="expected 5 examples and 3 queries, got 4 and 3"):
        draw_tasks(grouped(), (3, 5, 3), 1, 0)
