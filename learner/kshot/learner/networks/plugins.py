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
    """Return the names of the networks of installed distributions."""
    return sorted(entry_points(group=GROUP).names)


@cache
def load_plugin(name: str) -> Callable[..., Any] | None:
    """Load the factory that a distribution registers under a name, None if there is none.

    Raises `ValueError` when it cannot be imported, or two distributions register the name.
    """
    entry = _find(name)
    if entry is None:
        return None
    try:
        factory: object = entry.load()
    except Exception as error:  # a third party's module may raise anything
        raise ValueError(
            f"network {name!r} cannot be loaded from {entry.value}: {type(error).__name__}: {error}"
        ) from error
    if not callable(factory):
        raise ValueError(f"network {name!r}: expected a function at {entry.value}, got {factory!r}")
    return factory


@cache
def plugin_digest(name: str) -> str:
    """Digest the source of a plugin network's package; "" if no plugin has the name.

    Once in a process: the files may change, the code that runs does not.
    """
    digest = hashlib.sha256()
    entries = entry_points(group=GROUP, name=name)
    for entry in sorted(entries, key=lambda entry: entry.value):
        digest.update(entry.value.encode())
        for path in _sources(entry.module.partition(".")[0]):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest() if entries else ""


def _find(name: str) -> EntryPoint | None:
    # A distribution in two folders of the path registers the same value twice.
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if len(found) > 1:
        raise ValueError(
            f"network {name!r} is registered more than once: {', '.join(sorted(found))}"
        )
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
