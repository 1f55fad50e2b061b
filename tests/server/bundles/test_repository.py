"""What is found in the folders of bundles."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kshot.bundle import Bundle, BundleError
from kshot.server.bundles.repository import find_bundles, read_labels

WriteVersion = Callable[..., Bundle]


def test_a_repository_is_all_its_versions(tmp_path: Path, write_version: WriteVersion) -> None:
    """Whatever else lies there, as copies under way, is none of them."""
    for version in (1, 2, 10):
        write_version(tmp_path, version)
    other = write_version(tmp_path / "elsewhere", 3, name="other")
    for name in ("tiny/.11-copy", "tiny/old", ".git/1", "empty"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "tiny" / "labels.json").write_text('{"stable": 2, "safe": 2, "canary": 10}')

    found = find_bundles([other.path.parent], [tmp_path])

    assert [(each.path.parent.name, each.path.name, each.labels) for each in found] == [
        ("other", "3", ()),
        ("tiny", "1", ()),
        ("tiny", "2", ("safe", "stable")),
        ("tiny", "10", ("canary",)),
    ]
    assert find_bundles([other.path.parent], [tmp_path]) == found
    os.utime(tmp_path / "tiny" / "2" / "README.md", ns=(0, 0))
    assert find_bundles([other.path.parent], [tmp_path]) != found


def test_a_repository_without_bundles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected folders NAME/VERSION with bundles, got none"):
        find_bundles([], [tmp_path])
    with pytest.raises(
        BundleError, match=r"missing: cannot be read: No such file.*; name a folder"
    ):
        find_bundles([], [tmp_path / "missing"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1]", 'expected an object as {"stable": 2}'),
        ("{", "expected JSON"),
        ('{"stable": 1, "stable": 2}', "expected each label once"),
        ('{"stable": 3}', "stable: expected one of 1, 2, got 3"),
        ('{"stable": true}', "stable: expected one of 1, 2, got True"),
        ('{"stable": "1"}', "stable: expected one of 1, 2, got '1'"),
        ('{"2": 1}', "label '2': expected a match"),
        ('{"a\\u001b": 1}', "label .*: expected a match"),
        (" " * 70_000, "expected at most 65536 bytes"),
        ("[" * 20_000, "expected JSON"),
    ],
)
def test_labels_are_checked(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)

    with pytest.raises(BundleError, match=problem):
        read_labels(path, [1, 2])


def test_labels_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    assert read_labels(path, [1]) == {}
    path.write_text(json.dumps({"stable": 1, "next-one": 2}))

    assert read_labels(path, [1, 2]) == {"stable": 1, "next-one": 2}
