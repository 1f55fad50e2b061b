"""Where bundles lie: in the package, in the user's cache, or in a folder that is named."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from kshot.bundle.errors import BundleError
from kshot.bundle.field_types import NAME_PATTERN
from kshot.bundle.files import version_folder

_BUILTIN_FOLDER = Path(__file__).parent / "builtin"


def cache_folder() -> Path:
    """Choose the cache's folder by `XDG_CACHE_HOME` as its specification says (absolute only)."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "kshot"


def built_folder() -> Path:
    """Return the folder of the bundles that this user built from networks of others."""
    return cache_folder() / "bundles"


def _built(name: str) -> Path | None:
    """Return a bundle that was built: by this user, or into the environment, as containers do."""
    for folder in (built_folder(), Path(sys.prefix) / "share" / "kshot" / "bundles"):
        if (folder / name).is_dir():
            return version_folder(folder / name)
    return None


def builtin_bundle(name: str = "omniglot") -> Path:
    """Return the folder of a bundle that ships with the package, in its highest version."""
    if not re.fullmatch(NAME_PATTERN, name) or not (_BUILTIN_FOLDER / name).is_dir():
        shipped = sorted(folder.name for folder in _BUILTIN_FOLDER.glob("[a-z0-9]*"))
        raise BundleError(f"no built-in bundle {name!r}; expected one of: {', '.join(shipped)}")
    return version_folder(_BUILTIN_FOLDER / name)


def known_names() -> tuple[str, ...]:
    """Return the names that `locate_bundle` finds: built-in bundles and built ones, sorted."""
    found = [*_BUILTIN_FOLDER.glob("[a-z0-9]*"), *built_folder().glob("[a-z0-9]*")]
    return tuple(sorted({folder.name for folder in found}))


def locate_bundle(name: str) -> Path:
    """Return an existing folder, or the folder of the built-in or built bundle of this name.

    A path with several parts always means a folder. Raises `BundleError`.
    """
    folder = Path(name)
    if folder.exists() or len(folder.parts) > 1:
        return folder
    if re.fullmatch(NAME_PATTERN, name) and (built := _built(name)) is not None:
        return built
    try:
        return builtin_bundle(name)
    except BundleError as error:
        raise BundleError(f"there is no folder {name}, and {error}") from error
