"""Bundles take over, or nothing changes."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from kshot.bundle import Bundle, BundleError
from kshot.server.access.audit import AuditLog
from kshot.server.bundles.reload import Parts, Reload, open_catalog
from kshot.server.bundles.repository import find_bundles
from kshot.server.call_context import begin_call
from kshot.server.errors import EngineUnavailable, InvalidRequest
from kshot.server.predict.opener import Opener
from kshot.server.predict.runtime import Runtime

WriteVersion = Callable[..., Bundle]


@dataclass
class Engines:
    """Engines that remember what they load, and may fail then."""

    loaded: set[str] = field(default_factory=set)
    on_load: Callable[[], None] = lambda: None

    async def load_bundle(self, digest: str, _path: Path) -> None:
        self.on_load()
        self.loaded.add(digest)

    async def unload_bundle(self, digest: str) -> None:
        self.loaded.discard(digest)


class Serving:
    """A catalog of a repository, with what changes it."""

    def __init__(self, root: Path) -> None:
        find, opener = partial(find_bundles, [], [root]), Opener(Runtime())
        self.engines, self.forgotten = Engines(), list[str]()
        self.find, self.opener, found = find, opener, find()
        self.catalog = open_catalog(found, opener)
        self.engines.loaded = set(self.catalog.folders)
        self.listing(AuditLog(None))

    def listing(self, audit: AuditLog) -> None:
        """List what polling finds from now on."""
        parts = Parts(self.opener, cast(Any, self.engines), self.forgotten.extend, audit)
        self.reload = Reload(self.find, self.find(), self.catalog, parts)

    def names(self) -> list[str]:
        return [model.full_name for model in self.catalog.versions]

    def refused(self) -> str:
        """Reload in vain; return why."""
        before = self.catalog.versions, set(self.engines.loaded)
        with pytest.raises(InvalidRequest) as caught:
            asyncio.run(self.reload.reload())
        assert (self.catalog.versions, self.engines.loaded) == before
        return str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def serving(root: Path, write_version: WriteVersion) -> Serving:
    """The tiny model in version 1."""
    write_version(root, 1)
    return Serving(root)


def test_versions_come_and_go_under_calls(
    serving: Serving, root: Path, write_version: WriteVersion
) -> None:
    """What a call holds stays with engines until it has ended."""

    async def main() -> None:
        newer = write_version(root, 2)
        opened = await serving.reload.reload()
        assert [(each.model.full_name, each.loaded) for each in opened] == [
            ("tiny@1", False),
            ("tiny@2", True),
        ]
        held = serving.catalog.find("tiny@1")
        shutil.rmtree(held.bundle.path)
        await serving.reload.reload()
        assert serving.names() == ["tiny@2"]
        assert serving.forgotten == [held.bundle.digest]
        assert serving.engines.loaded == {held.bundle.digest, newer.digest}
        del held, opened
        gc.collect()
        while len(serving.engines.loaded) > 1:  # pytest's time limit ends this
            await asyncio.sleep(0)
        assert serving.engines.loaded == {newer.digest}

    asyncio.run(main())


def test_a_version_that_comes_back_stays_with_the_engines(serving: Serving, root: Path) -> None:
    """Its last call ends while it is loaded again."""

    async def main() -> None:
        held = [serving.catalog.find("tiny")]
        digest, folder = held[0].bundle.digest, held[0].bundle.path
        shutil.copytree(folder, root / "other" / "1")
        manifest = root / "other" / "1" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"tiny"', '"other"'))
        folder.rename(root / ".away")
        await serving.reload.reload()
        (root / ".away").rename(folder)
        serving.engines.on_load = held.clear
        await serving.reload.reload()
        for _ in range(10):
            await asyncio.sleep(0)
        assert digest in serving.engines.loaded

    asyncio.run(main())


def test_what_polling_finds_is_in_the_audit_log(
    serving: Serving,
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
    write_version: WriteVersion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    serving.listing(AuditLog(path))
    labels = root / "tiny" / "labels.json"

    async def main() -> None:
        labels.write_text('{"stable": 1}')
        await serving.reload.look()
        write_version(root, 2)
        labels.write_text('{"stable": 2, "old": 1}')
        with caplog.at_level("INFO", "kshot.server"):
            await serving.reload.look()
        await serving.reload.look()
        labels.write_text('{"stable": 1}')
        call = begin_call("ReloadBundles")
        await serving.reload.reload()  # its call is listed once it has ended
        assert call.changes["labels_before"] == "tiny@old = tiny@1, tiny@stable = tiny@2"
        assert call.changes["labels_after"] == "tiny@stable = tiny@1"

    asyncio.run(main())
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["action"], first["actor"], first["outcome"]) == ("reload_bundles", "poll", "OK")
    assert first["labels_after"] == "tiny@stable = tiny@1"
    assert "labels_before" not in first
    assert second["loaded"] == "tiny@2"
    assert second["labels_before"] == "tiny@stable = tiny@1"
    assert second["labels_after"] == "tiny@old = tiny@1, tiny@stable = tiny@2"
    event = next(each for each in caplog.records if each.message == "bundles_reloaded")
    assert vars(event)["fields"]["labels_before"] == {"tiny@stable": "tiny@1"}


def test_what_is_served_is_not_opened_again(serving: Serving, root: Path) -> None:
    (root / "tiny" / "labels.json").write_text('{"stable": 1}')
    before = serving.catalog.find("tiny")

    asyncio.run(serving.reload.reload())

    after = serving.catalog.find("tiny@stable")
    assert after.predictor is before.predictor
    assert after.labels == ("stable",)


def test_a_version_never_changes(serving: Serving, root: Path, write_version: WriteVersion) -> None:
    """Also not while it is away."""
    write_version(root, 2)
    shutil.rmtree(root / "tiny" / "1")
    changed = write_version(root, 1, step=7)

    assert "give it a new version" in serving.refused()
    shutil.rmtree(changed.path)
    asyncio.run(serving.reload.reload())
    write_version(root, 1, step=7)
    assert "tiny/1: expected digest" in serving.refused()


def test_a_broken_bundle_changes_nothing(
    serving: Serving, root: Path, write_version: WriteVersion
) -> None:
    write_version(root, 2)
    weights = write_version(root, 3).path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    problems = [serving.refused()]
    (weights.parent / "manifest.json").write_text("{}")
    problems.append(serving.refused())
    shutil.rmtree(weights.parent)
    (root / "tiny" / "3").mkdir()
    problems.append(serving.refused())
    shutil.rmtree(root / "tiny" / "3")
    (root / "tiny" / "labels.json").write_text('{"stable": 3}')
    problems.append(serving.refused())

    assert all(
        word in problem
        for word, problem in zip(
            ("weights.safetensors: expected", "schema", "manifest.json", "labels.json: stable"),
            problems,
            strict=True,
        )
    )


@pytest.mark.parametrize("trouble", ["removed", "refused"])
def test_what_fails_while_it_is_loaded_changes_nothing(
    serving: Serving, root: Path, write_version: WriteVersion, trouble: str
) -> None:
    newer = write_version(root, 2)

    def fail() -> None:
        if trouble == "refused":
            raise BundleError("the network is another")
        shutil.rmtree(newer.path)

    serving.engines.on_load = fail

    problem = serving.refused()

    assert ("network" in problem) is (trouble == "refused")
    assert serving.names() == ["tiny@1"]


def look_often(look: Callable[[], Awaitable[None]], count: int = 3) -> None:
    async def main() -> None:
        for _ in range(count):
            await look()

    asyncio.run(main())


def test_a_look_reloads_only_what_changed(
    serving: Serving,
    root: Path,
    write_version: WriteVersion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    look_often(serving.reload.look)
    assert caplog.messages == []

    write_version(root, 2)
    look_often(serving.reload.look)

    assert serving.names() == ["tiny@2", "tiny@1"]
    assert caplog.messages == ["bundles_reloaded"]


def test_a_bundle_that_is_being_copied_is_logged_once(
    serving: Serving,
    root: Path,
    write_version: WriteVersion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    weights = write_version(root, 2).path / "weights.safetensors"
    whole = weights.read_bytes()
    for size in (0, 10, len(whole) - 1):
        weights.write_bytes(whole[:size])
        look_often(serving.reload.look, 2)
    assert serving.names() == ["tiny@1"]
    assert caplog.messages == ["bundles_not_loaded"]

    weights.write_bytes(whole)
    look_often(serving.reload.look)

    assert serving.names() == ["tiny@2", "tiny@1"]
    assert caplog.messages == ["bundles_not_loaded", "bundles_reloaded"]


def test_a_look_tries_again_while_there_is_no_engine(
    serving: Serving, root: Path, write_version: WriteVersion
) -> None:
    def fail() -> None:
        serving.engines.on_load = lambda: None
        raise EngineUnavailable

    write_version(root, 2)
    serving.engines.on_load = fail

    look_often(serving.reload.look, 1)
    assert serving.names() == ["tiny@1"]
    look_often(serving.reload.look, 1)

    assert serving.names() == ["tiny@2", "tiny@1"]
