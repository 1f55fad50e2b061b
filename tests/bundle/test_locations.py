"""Bundles by name: in the package, in the cache, or in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from kshot.bundle import (
    PHOTOS_VERSION,
    BundleError,
    built_folder,
    builtin_bundle,
    default_bundles,
    known_names,
    load_bundle,
    locate_bundle,
    locations,
    shipped_names,
)


def test_every_bundle_that_ships_is_whole() -> None:
    for folder in (Path(locations.__file__).parent / "builtin").glob("[a-z0-9]*"):
        path = builtin_bundle(folder.name)

        assert load_bundle(path) == load_bundle(folder)


@pytest.mark.parametrize("name", ["no-such", "../bundle", ""])
def test_an_unknown_builtin_bundle_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match="no built-in bundle"):
        builtin_bundle(name)


def test_an_older_version_is_named_after_an_at_sign() -> None:
    assert builtin_bundle("omniglot@1") == builtin_bundle("omniglot").parent / "1"
    assert builtin_bundle("omniglot@2") == builtin_bundle("omniglot")
    with pytest.raises(BundleError, match="version of omniglot: expected 1 or 2, got 'x'"):
        locate_bundle("omniglot@x")


def test_a_bundle_comes_before_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    built = built_folder() / "mine" / "1"
    built.mkdir(parents=True)
    for name in ("omniglot", "mine", "other"):
        (tmp_path / name).mkdir()

    assert locate_bundle("omniglot") == builtin_bundle("omniglot")
    assert locate_bundle("mine") == built
    assert locate_bundle("./omniglot") == locate_bundle("omniglot/") == Path("omniglot")
    assert locate_bundle("other") == Path("other")
    assert locate_bundle(".") == Path()
    assert locate_bundle("some/where") == Path("some/where")
    with pytest.raises(BundleError, match="there is no folder omni, and no built-in bundle 'omni'"):
        locate_bundle("omni")


def test_a_built_bundle_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = built_folder() / "mine" / "2"
    folder.mkdir(parents=True)
    (folder.parent / "1").mkdir()

    assert built_folder() == tmp_path / "cache" / "kshot" / "bundles"
    assert locate_bundle("mine") == locate_bundle("mine@2") == folder
    assert locate_bundle("mine@1") == folder.parent / "1"
    for version in ("3", ""):
        with pytest.raises(BundleError, match=f"version of mine: expected 1 or 2, got '{version}'"):
            locate_bundle(f"mine@{version}")


def test_photos_that_is_not_built_is_refused_with_the_command_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(locations.sys, "prefix", str(tmp_path / "environment"))
    (tmp_path / "photos").mkdir()

    for name in ("photos", "photos@1", "photos@"):
        with pytest.raises(BundleError, match=f"{name} is not built; .* kshot bundle build photos"):
            locate_bundle(name)


def test_a_name_that_ships_means_what_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A built bundle of that name, of an earlier release, is served by its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (built_folder() / "omniglot" / "3").mkdir(parents=True)

    assert locate_bundle("omniglot") == builtin_bundle("omniglot")
    with pytest.raises(BundleError, match="version of omniglot: expected 1 or 2, got '3'"):
        locate_bundle("omniglot@3")
    assert {"drawings", "omniglot", "photos"} <= set(shipped_names())


def test_the_default_bundles_are_drawings_and_photos_where_it_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    drawings = builtin_bundle("drawings")
    assert default_bundles() == (drawings,)
    newer = built_folder() / "photos" / str(PHOTOS_VERSION + 1)
    newer.mkdir(parents=True)
    assert default_bundles() == (drawings, newer)
    folder = built_folder() / "photos" / str(PHOTOS_VERSION)
    folder.mkdir()

    assert default_bundles() == (drawings, folder)


def test_a_bundle_may_be_built_into_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers carry it so; a user's own comes before it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(locations.sys, "prefix", str(tmp_path / "environment"))
    folder = tmp_path / "environment" / "share" / "kshot" / "bundles" / "photos" / "1"
    folder.mkdir(parents=True)

    assert locate_bundle("photos") == folder
    assert default_bundles()[1:] == (folder,)
    assert "photos" in known_names()
    (built_folder() / "photos" / "1").mkdir(parents=True)
    assert locate_bundle("photos") == built_folder() / "photos" / "1"
    newer = folder.parent / str(PHOTOS_VERSION)
    newer.mkdir()
    assert locate_bundle("photos") == newer  # what this release builds comes before all


def test_known_names_are_those_that_ship_or_were_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shipped = known_names()
    (built_folder() / "aphotos" / "1").mkdir(parents=True)

    assert "omniglot" in shipped
    assert known_names() == ("aphotos", *shipped)


def test_what_a_killed_build_leaves_is_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (built_folder() / "photos").mkdir(parents=True)

    assert default_bundles() == (builtin_bundle("drawings"),)
    assert "photos" not in known_names()


def test_several_names_in_one_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("drawings,omniglot", "drawings omniglot"):
        with pytest.raises(BundleError, match=r"expected one of: .*; name several one by one"):
            locate_bundle(name)
    with pytest.raises(BundleError, match="got an empty one"):
        locate_bundle(" ")
