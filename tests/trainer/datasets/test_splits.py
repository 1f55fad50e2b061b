import hashlib
from pathlib import Path

import pytest

from kshot.trainer.datasets.splits import (
    classes_of,
    held_out_split,
    read_split_file,
    seeded_split,
    split_digest,
)
from kshot.trainer.errors import DataError

CLASSES = [f"class{number:02d}" for number in range(25)]


def test_a_splits_digest_is_over_a_line_for_each_class_with_its_part() -> None:
    split = {"test": ["d"], "train": ["a", "b"], "val": ["c"]}
    moved = {"train": ["a"], "val": ["b", "c"], "test": ["d"]}

    lines = b"train/a\ntrain/b\nval/c\ntest/d\n"
    assert split_digest(split) == hashlib.sha256(lines).hexdigest()
    assert split_digest(moved) != split_digest(split)


def test_a_seeded_split_has_every_class_once_in_the_documented_fractions() -> None:
    split = seeded_split(CLASSES, seed=3)

    assert [len(split[part]) for part in ("train", "val", "test")] == [16, 4, 5]
    assert sorted(name for names in split.values() for name in names) == CLASSES


def test_a_seeded_split_follows_from_names_and_seed_alone() -> None:
    assert seeded_split(CLASSES[::-1], seed=3) == seeded_split(CLASSES, seed=3)
    assert seeded_split(CLASSES, seed=4) != seeded_split(CLASSES, seed=3)
    # Written down, so that no later version divides a user's classes anew.
    assert seeded_split("abcde", seed=0) == {"train": ["a", "b", "c"], "val": ["e"], "test": ["d"]}


def test_few_classes_give_each_part_one_and_fewer_are_refused() -> None:
    assert [len(names) for names in seeded_split(["a", "b", "c"], 0).values()] == [1, 1, 1]
    with pytest.raises(DataError, match="a seeded split needs at least 3 classes, got 2"):
        seeded_split(["a", "b"], 0)


def test_a_part_without_classes_is_refused_with_those_there_are() -> None:
    split = {"train": ["a"], "val": [], "test": ["b"]}

    assert classes_of(split, "test", "birds") == ["b"]
    for part in ("val", "dev"):
        with pytest.raises(
            DataError, match=f"part of birds: expected one of train, test .*, got '{part}'"
        ):
            classes_of(split, part, "birds")


def test_a_split_file_gives_each_class_its_part(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text('class,part\nzebra,train\n"a, b",test\n\nape,train\n', encoding="utf-8-sig")

    split = read_split_file(path, ["a, b", "ape", "zebra"])

    assert split == {"train": ["ape", "zebra"], "val": [], "test": ["a, b"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class;part\na;train", "expected the columns 'class,part', got 'class;part'"),
        ("part,class\ntrain,a", "expected the columns 'class,part', got 'part,class'"),
        ("", "expected the columns 'class,part', got ''"),
        ("class,part\na,train\nb,test\na,test", "line 4: class 'a' appears twice"),
        ("class,part\na,train\nc,test", "line 3: class 'c' has no folder"),
        (
            "class,part\na,train\nb,dev",
            "line 3: expected a part, one of train, val, test, got 'dev'",
        ),
        ("class,part\na,train", "class 'b' is missing; each class needs a part"),
        ("class,part\na,train,1", "line 2: expected 2 fields, got 3"),
        (b"class,part\n\xff,train", "not UTF-8 text"),
        ("x" * 200_000, "line 1: damaged: field larger than field limit"),
    ],
)
def test_a_wrong_split_file_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "split.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(DataError, match=f"split.csv[:,] {message}"):
        read_split_file(path, ["a", "b"])


def test_a_missing_split_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*split.csv: No such file"):
        read_split_file(tmp_path / "split.csv", ["a"])


def test_a_quarter_is_held_out_but_five_and_never_more_than_half() -> None:
    for count, held_out in ((96, 24), (25, 6), (12, 5), (10, 5), (7, 3), (4, 2)):
        split = held_out_split([f"c{number:02d}" for number in range(count)], 0)
        assert (len(split["test"]), len(split["train"])) == (held_out, count - held_out)
    # Written down, so that no later version divides a user's classes anew.
    assert held_out_split("abcdef", 0) == {"train": ["a", "d", "f"], "test": ["b", "c", "e"]}
    with pytest.raises(DataError, match=r"expected at least 4 classes, two to train on .*, got 3"):
        held_out_split("abc", 0)
