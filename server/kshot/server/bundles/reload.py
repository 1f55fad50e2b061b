"""Other bundles take over while a server serves: all that are there, or none."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from kshot.bundle import BundleError, folder_digest, load_bundle
from kshot.server.access.audit import AuditLog
from kshot.server.bundles.repository import Found
from kshot.server.call_context import note_changes
from kshot.server.engine_link.pool import EnginePool
from kshot.server.errors import EngineUnavailable, InvalidRequest, StartError
from kshot.server.event_log import LOGGER, log_event
from kshot.server.predict.catalog import Catalog, ServedModel
from kshot.server.predict.opener import Opener

Find = Callable[[], Sequence[Found]]
Forget = Callable[[Collection[str]], None]


@dataclass(frozen=True)
class Opened:
    """A version to serve; `loaded` tells that it was not served before."""

    model: ServedModel
    loaded: bool


@dataclass(frozen=True)
class Parts:
    """What else knows bundles: who opens them, the engines, and the memory of adapted models.

    `audit` lists the changes that polling finds; those of calls are listed as such.
    """

    opener: Opener
    engine: EnginePool
    forget: Forget
    audit: AuditLog = field(default_factory=lambda: AuditLog(None))


@dataclass(frozen=True)
class _Change:
    """What a reload made of the served versions; labels that moved, with their versions."""

    loaded: list[str]
    removed: list[str]
    labels_before: Mapping[str, str]
    labels_after: Mapping[str, str]

    @staticmethod
    def of(before: Sequence[ServedModel], opened: Sequence[Opened]) -> _Change:
        after = [each.model for each in opened]
        old, new = _labels(before), _labels(after)
        digests = {model.bundle.digest for model in after}
        return _Change(
            [each.model.full_name for each in opened if each.loaded],
            [model.full_name for model in before if model.bundle.digest not in digests],
            dict(sorted(old.items() - new.items())),
            dict(sorted(new.items() - old.items())),
        )

    def texts(self) -> dict[str, str]:
        """Return the fields of an audit line."""
        moved = {"labels_before": self.labels_before, "labels_after": self.labels_after}
        return {
            "loaded": ", ".join(self.loaded),
            "removed": ", ".join(self.removed),
            **{
                name: ", ".join(f"{label} = {version}" for label, version in labels.items())
                for name, labels in moved.items()
            },
        }


class Reload:
    """Puts the bundles that `find` finds in place of those that are served.

    A version never changes its content. New ones are read, checked and opened in a thread, and
    loaded by the engines, before any call sees them. Calls that have begun keep their version,
    which is freed once the last of them has ended; `forget` is told the digests that are gone.
    """

    def __init__(self, find: Find, found: Sequence[Found], catalog: Catalog, parts: Parts) -> None:
        """Change nothing yet; `catalog` has what was `found` before."""
        self._find = find
        self._catalog = catalog
        self._opener = parts.opener
        self._engine = parts.engine
        self._forget = parts.forget
        self._audit = parts.audit
        self._turn = asyncio.Lock()
        self._seen: Sequence[Found] | None = found
        self._failed = ""
        self._known = {each.full_name: each.bundle.digest for each in catalog.versions}
        self._unloading = set[asyncio.Task[None]]()

    async def reload(self) -> Sequence[Opened]:
        """Serve what is there now; if something cannot be served, change nothing.

        Raises `InvalidRequest`, which names it, or `EngineUnavailable`.
        """
        async with self._turn:
            try:
                opened, change = await self._reload()
                note_changes(change.texts())
                return sorted(opened, key=_by_name)
            except (BundleError, StartError) as error:
                raise InvalidRequest.about("bundles", str(error)) from error

    async def poll(self, seconds: float) -> None:
        """Look for changes from time to time, until this is cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.look()
            except Exception:  # the next look may work
                LOGGER.exception("failure")

    async def look(self) -> None:
        """Reload if files have changed; what cannot be served goes to the log, once."""
        try:
            found = await asyncio.to_thread(self._find)
            if found == self._seen:
                return
            self._seen = found
            async with self._turn:
                _, change = await self._reload()
            self._failed = ""
            note = partial(self._audit.write, "reload_bundles", "OK", actor="poll")
            await asyncio.to_thread(note, **change.texts())
        except EngineUnavailable:
            self._seen = None  # the next look tries again
        except (BundleError, StartError) as error:
            # A bundle that is being copied fails in another way each time.
            place, _, _ = str(error).partition(": ")
            if place != self._failed:
                log_event("bundles_not_loaded", logging.WARNING, problem=str(error))
            self._failed = place

    async def _reload(self) -> tuple[Sequence[Opened], _Change]:
        began, before = time.perf_counter(), self._catalog.versions
        found = await asyncio.to_thread(self._find)
        opened = await asyncio.to_thread(self._open, found, before)
        await self._load([each.model for each in opened if each.loaded], found)
        self._catalog.replace([each.model for each in opened])
        after = {each.model.bundle.digest for each in opened}
        gone = [model for model in before if model.bundle.digest not in after]
        self._known |= {each.model.full_name: each.model.bundle.digest for each in opened}
        self._forget([model.bundle.digest for model in gone])
        for model in gone:
            self._unload_once_idle(model)
        change = _Change.of(before, opened)
        log_event(
            "bundles_reloaded",
            models=[model.full_name for model in self._catalog.versions],
            **vars(change),
            seconds=round(time.perf_counter() - began, 3),
        )
        return opened, change

    def _open(self, found: Sequence[Found], served: Sequence[ServedModel]) -> list[Opened]:
        """Open what is not served yet; blocks. Raises `BundleError`."""
        known = {(model.bundle.path, model.bundle.digest): model for model in served}
        opened = []
        for each in found:
            same = known.get((each.path, _digest(each)))
            if same is not None:
                opened.append(Opened(replace(same, labels=each.labels), loaded=False))
                continue
            model = ServedModel.open(load_bundle(each.path), self._opener, each.labels)
            self._check_unchanged(model)
            opened.append(Opened(model, loaded=True))
        return opened

    def _check_unchanged(self, model: ServedModel) -> None:
        digest = self._known.get(model.full_name, model.bundle.digest)
        if digest != model.bundle.digest:
            raise BundleError(
                f"{model.bundle.path}: expected digest {digest}, which this server has served as "
                f"{model.full_name}, got {model.bundle.digest}; give it a new version"
            )

    async def _load(self, models: Sequence[ServedModel], found: Sequence[Found]) -> None:
        """Let the engines load models, and look whether the files are still there.

        Raises `BundleError` or `EngineUnavailable`; then the engines have none of them.
        """
        loaded = []
        try:
            for model in models:
                await self._engine.load_bundle(model.bundle.digest, model.bundle.path)
                loaded.append(model.bundle.digest)
            now = {each.path: each for each in await asyncio.to_thread(self._find)}
            for each in found:
                if now.get(each.path) != each:
                    raise BundleError(f"{each.path}: its files changed while it was loaded")
        except BaseException:
            served = {model.bundle.digest for model in self._catalog.versions}
            for digest in loaded:
                if digest not in served:
                    await self._engine.unload_bundle(digest)
            raise

    def _unload_once_idle(self, model: ServedModel) -> None:
        """Let the engines forget a bundle once no call holds it."""
        loop, digest, name = asyncio.get_running_loop(), model.bundle.digest, model.full_name

        def idle() -> None:
            with suppress(RuntimeError):  # the server has stopped
                loop.call_soon_threadsafe(partial(self._unload_later, digest, name))

        weakref.finalize(model.predictor, idle).atexit = False

    def _unload_later(self, digest: str, name: str) -> None:
        task = asyncio.ensure_future(self._unload(digest, name))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _unload(self, digest: str, name: str) -> None:
        async with self._turn:  # a reload may be about to bring it back
            if digest not in self._catalog.folders:
                await self._engine.unload_bundle(digest)
                log_event("bundle_unloaded", model=name)


def _labels(models: Sequence[ServedModel]) -> dict[str, str]:
    """Return the version that each `NAME@LABEL` means."""
    return {
        f"{model.bundle.manifest.name}@{label}": model.full_name
        for model in models
        for label in model.labels
    }


def _by_name(opened: Opened) -> tuple[str, int]:
    manifest = opened.model.bundle.manifest
    return manifest.name, manifest.version


def open_catalog(found: Sequence[Found], opener: Opener) -> Catalog:
    """Open what was found; raise `BundleError`, or `StartError` if two are the same version."""
    models = [ServedModel.open(load_bundle(each.path), opener, each.labels) for each in found]
    return Catalog(models, opener)


def _digest(found: Found) -> str:
    try:
        return folder_digest(found.path)
    except BundleError as error:
        raise BundleError(f"{found.path}: {error}") from error
