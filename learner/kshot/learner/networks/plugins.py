"""Networks of third parties: entry points of installed distributions."""

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

GROUP = "kshot.networks"


def plugin_names() -> list[str]:
    """Return the names of the networks that installed distributions bring."""
    return sorted(entry_points(group=GROUP).names)


@cache
def load_plugin(name: str) -> Callable[..., Any] | None:
    """Load the factory that a distribution has entered under a name, None where none has.

    Raises ``ValueError`` when it cannot be imported, or two distributions enter the name.
    """
    entry = _find(name)
    if entry is None:
        return None
    try:
        factory: object = entry.load()
    except Exception as error:  # of whatever kind a third party's module raises
        raise ValueError(
            f"network {name!r} cannot be loaded from {entry.value}: {type(error).__name__}: {error}"
        ) from error
    if not callable(factory):
        raise ValueError(f"network {name!r} is {factory!r} at {entry.value}, wanted a function")
    return factory


@cache
def plugin_digest(name: str) -> str:
    """Digest the source of the package that a network comes from, "" where no plugin has the name.

    Once: the code that runs is the one that was there at first, should the files change.
    """
    digest = hashlib.sha256()
    entries = entry_points(group=GROUP, name=name)
    for entry in sorted(entries, key=lambda entry: entry.value):
        digest.update(entry.value.encode())
        for path in _sources(entry.module.partition(".")[0]):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest() if entries else ""


def _find(name: str) -> EntryPoint | None:
    # A distribution that is there twice, in two folders of the path, enters the same value twice.
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if len(found) > 1:
        raise ValueError(f"network {name!r} is entered more than once: {', '.join(sorted(found))}")
    return next(iter(found.values()), None)


def _sources(package: str) -> list[Path]:
    """Return the Python files of a package, or the file of a module."""
    spec = find_spec(package)
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)] if spec.origin else []
    folders = map(Path, spec.submodule_search_locations)
    return sorted(path for folder in folders for path in folder.rglob("*.py"))
