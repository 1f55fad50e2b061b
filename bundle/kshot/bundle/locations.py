"""Where bundles lie: in the package, in the user's cache, or in a folder that is named."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kshot.bundle.errors import BundleError
from kshot.bundle.field_types import NAME_PATTERN
from kshot.bundle.files import version_folder
from kshot.local import pip_install

PHOTOS, PHOTOS_VERSION = "photos", 3
"""The bundle that is built from packages, and the version that this release builds."""

_VERSIONS = "[a-z0-9]*/[1-9]*"
_BUILTIN_FOLDER = Path(__file__).parent / "builtin"


def cache_folder() -> Path:
    """Choose the cache's folder by `XDG_CACHE_HOME` as its specification says (absolute only)."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "kshot"


def built_folder() -> Path:
    """Return the folder of the bundles that this user built from networks of others."""
    return cache_folder() / "bundles"


def _built_folders() -> tuple[Path, ...]:
    """Return where bundles are built: by this user, or into the environment, as containers do."""
    return (built_folder(), Path(sys.prefix) / "share" / "kshot" / "bundles")


def _built(name: str, version: str = "") -> Path | None:
    """Return a version of a bundle that was built, by default the one of this release or highest.

    This user's come before the environment's.
    """
    folders = _built_folders()
    if not version and name == PHOTOS:
        version = str(PHOTOS_VERSION)
        if (found := _built(name, version)) is not None:
            return found
        version = ""
    for folder in folders:
        with suppress(BundleError):  # a build that was killed leaves a folder without versions
            if not version:
                return version_folder(folder / name)
            if version in _versions(folder / name):
                return folder / name / version
    return None


def _versions(folder: Path) -> list[str]:
    """Return the versions in a bundle's folder, the lowest first."""
    found = [item.name for item in folder.glob("[1-9]*") if item.name.isdecimal()]
    return sorted(found, key=int)


def default_bundles() -> tuple[Path, ...]:
    """Return the bundles that a server serves unless others are named.

    They are `drawings`, and `photos` where it was built.
    """
    photos = _built(PHOTOS)
    return (builtin_bundle("drawings"), *(() if photos is None else (photos,)))


def builtin_bundle(name: str) -> Path:
    """Return the folder of a bundle that ships with the package.

    `NAME` is its highest version, `NAME@VERSION` another one. Raises `BundleError`.
    """
    only, at, version = name.partition("@")
    folder = _BUILTIN_FOLDER / only
    if not re.fullmatch(NAME_PATTERN, only) or not folder.is_dir():
        shipped = sorted(folder.name for folder in _BUILTIN_FOLDER.glob("[a-z0-9]*"))
        raise BundleError(f"no built-in bundle {name!r}; expected one of: {', '.join(shipped)}")
    if not at:
        return version_folder(folder)
    if version not in (versions := _versions(folder)):
        raise _no_version(only, versions, version)
    return folder / version


def _no_version(name: str, versions: Sequence[str], version: str) -> BundleError:
    return BundleError(f"version of {name}: expected {' or '.join(versions)}, got {version!r}")


def shipped_names() -> tuple[str, ...]:
    """Return the names of this release's bundles, sorted: those that ship, and `photos`."""
    shipped = {version.parent.name for version in _BUILTIN_FOLDER.glob(_VERSIONS)}
    return tuple(sorted({PHOTOS, *shipped}))


def known_names() -> tuple[str, ...]:
    """Return the names that `locate_bundle` finds: built-in bundles and built ones, sorted."""
    places = (_BUILTIN_FOLDER, *_built_folders())
    found = {version.parent.name for place in places for version in place.glob(_VERSIONS)}
    return tuple(sorted(found))


def locate_bundle(name: str) -> Path:
    """Return the folder of the built-in or built bundle of this name, or an existing folder.

    A name that ships means what ships. `NAME@VERSION` is one version. A bundle comes before a
    folder of its name; a path with several parts or `./NAME` always means a folder. Raises
    `BundleError`.
    """
    if not name.strip():
        raise BundleError("expected the folder or the name of a bundle, got an empty one")
    folder = Path(name)
    if str(folder) != name or len(folder.parts) > 1:
        return folder
    only, at, version = name.partition("@")
    if re.fullmatch(NAME_PATTERN, only) and not (_BUILTIN_FOLDER / only).is_dir():
        built = _built(only, version) if version or not at else None
        if built is not None:
            return built
        versions = {found for place in _built_folders() for found in _versions(place / only)}
        if versions:
            raise _no_version(only, sorted(versions, key=int), version)
        if only == PHOTOS:
            raise BundleError(
                f"{name} is not built; {pip_install('photos')}, then kshot bundle build photos "
                f"(version {PHOTOS_VERSION})"
            )
    if folder.exists() and only not in shipped_names():
        return folder
    try:
        return builtin_bundle(name)
    except BundleError as error:
        remedy = (
            "; name several one by one, or with : between them in KSHOT_BUNDLE"
            if re.search(r"[,;\s]", name)
            else ""
        )
        raise BundleError(f"there is no folder {name}, and {error}{remedy}") from error
