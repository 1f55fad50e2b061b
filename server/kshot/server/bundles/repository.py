"""What a server is to serve: bundles by folder, and repositories `NAME/VERSION/` with labels.

`NAME/labels.json` labels versions, as `{"stable": 2, "canary": 3}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kshot.bundle import NAME_PATTERN, BundleError, version_folder, version_numbers

LABELS_FILE = "labels.json"
_MAX_LABELS_BYTES = 2**16
LABEL_PATTERN = r"[a-z][a-z0-9_-]{0,31}"

Stamp = tuple[tuple[str, int, int], ...]  # name, bytes and time of change of each file


@dataclass(frozen=True)
class Found:
    """The folder of a version, its labels, and what tells that its files have changed."""

    path: Path
    labels: tuple[str, ...]
    stamp: Stamp


def find_bundles(folders: Sequence[Path], repositories: Sequence[Path]) -> list[Found]:
    """Return the versions to serve: of each bundle folder one, of repositories all.

    Only looks for them. Raises `BundleError` if a folder is missing, a label is wrong, or there is
    nothing to serve.
    """
    found = [_found(version_folder(folder)) for folder in folders]
    for repository in repositories:
        found += _of_repository(repository)
    if not found:
        names = ", ".join(map(str, repositories))
        raise BundleError(f"{names}: expected folders NAME/VERSION with bundles, got none")
    return found


def read_labels(path: Path, versions: Sequence[int]) -> dict[str, int]:
    """Read labels of versions, none if there is no file; raise `BundleError`."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_LABELS_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        problem = f"{path}: cannot be read: {error.strerror}"
        raise BundleError(f"{problem}; make it readable to the server's user") from error
    if len(content) > _MAX_LABELS_BYTES:
        raise BundleError(f"{path}: expected at most {_MAX_LABELS_BYTES} bytes, got more")
    try:
        document = json.loads(content, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: expected JSON: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(f'{path}: expected an object as {{"stable": 2}}, got {content[:40]!r}')
    for label, version in document.items():
        if not re.fullmatch(LABEL_PATTERN, label):
            raise BundleError(f"{path}: label {label[:40]!r}: expected a match of {LABEL_PATTERN}")
        if type(version) is not int or version not in versions:
            there = ", ".join(map(str, versions))
            raise BundleError(f"{path}: {label}: expected one of {there}, got {version!r}")
    return document


def _of_repository(repository: Path) -> Iterator[Found]:
    try:
        folders = sorted(item for item in repository.iterdir() if _may_hold(item))
    except OSError as error:
        problem = f"{repository}: cannot be read: {error.strerror}"
        raise BundleError(f"{problem}; name a folder of bundles NAME/VERSION") from error
    for folder in folders:
        if versions := version_numbers(folder):
            labels = read_labels(folder / LABELS_FILE, versions)
            for version in versions:
                yield _found((folder / str(version)).resolve(), _labels_of(version, labels))


def _may_hold(folder: Path) -> bool:
    return re.fullmatch(NAME_PATTERN, folder.name) is not None and folder.is_dir()


def _labels_of(version: int, labels: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(label for label, labelled in labels.items() if labelled == version))


def _found(path: Path, labels: tuple[str, ...] = ()) -> Found:
    try:
        files = sorted(path.iterdir())
        stats = [(item.name, item.stat()) for item in files]
    except OSError as error:
        problem = f"{path}: cannot be read: {error.strerror}"
        raise BundleError(f"{problem}; make it readable to the server's user") from error
    stamp = tuple((name, status.st_size, status.st_mtime_ns) for name, status in stats)
    return Found(path, labels, stamp)


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("expected each label once")
    return document
