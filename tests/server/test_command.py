"""What `kshot serve` makes of its options, without a server."""

import logging
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from kshot.bundle import PHOTOS_VERSION, BundleError, built_folder, builtin_bundle
from kshot.server import command as module
from kshot.server.config import ServerConfig


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServerConfig]:
    """Let servers end before they begin, and list what they were to serve."""
    configs: list[ServerConfig] = []

    async def serve(config: ServerConfig, _announce: object) -> None:
        configs.append(config)

    monkeypatch.setenv("XDG_CACHE_HOME", "/no/such/cache")  # nothing was built
    monkeypatch.setattr(module, "serve", serve)
    monkeypatch.setattr(module, "start_logging", lambda **_settings: None)
    monkeypatch.setattr(module, "_leave", lambda: None)
    return configs


def test_bundles_are_folders_or_built_in(
    served: list[ServerConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    for arguments in ([], ["--bundle", "omniglot", "--bundle", "my/own"]):
        assert CliRunner().invoke(module.command, arguments).exit_code == 0

    assert [config.bundles for config in served] == [
        (builtin_bundle("drawings"),),
        (builtin_bundle("omniglot"), Path("my/own")),
    ]


def test_a_server_without_photos_says_how_to_build_them(
    served: list[ServerConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once, and only where the default bundles are served; also if another version is there."""
    caplog.set_level(logging.INFO)
    assert CliRunner().invoke(module.command, ["--bundle", "omniglot"]).exit_code == 0
    assert CliRunner().invoke(module.command, []).exit_code == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (built_folder() / "photos" / "1").mkdir(parents=True)
    assert CliRunner().invoke(module.command, []).exit_code == 0
    assert CliRunner().invoke(module.command, ["--bundle", "photos@1"]).exit_code == 0
    (built_folder() / "photos" / str(PHOTOS_VERSION)).mkdir()
    assert CliRunner().invoke(module.command, ["--bundle", "photos"]).exit_code == 0

    (other,) = [one for one in caplog.records if one.message == "photos_of_another_version"]
    assert other.__dict__["fields"] == {
        "served": "1",
        "wanted": str(PHOTOS_VERSION),
        "command": "kshot bundle build photos",
    }
    (record,) = [one for one in caplog.records if one.message == "photos_not_built"]
    assert record.__dict__["fields"] == {"command": "kshot bundle build photos"}
    assert [len(config.bundles) for config in served] == [1, 1, 2, 1, 1]


def test_the_variable_holds_paths_side_by_side(
    served: list[ServerConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KSHOT_BUNDLE", os.pathsep.join(["omniglot", "my models/own"]))

    assert CliRunner().invoke(module.command, []).exit_code == 0

    (config,) = served
    assert config.bundles == (builtin_bundle("omniglot"), Path("my models/own"))


def test_an_unknown_bundle_lists_the_built_in_ones(
    served: list[ServerConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(module.command, ["--bundle", "omnigolt"])

    assert isinstance(result.exception, BundleError)
    assert "no folder omnigolt, and no built-in bundle" in str(result.exception)
    assert "omniglot" in str(result.exception)
    assert served == []
