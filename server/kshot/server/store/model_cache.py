"""Adapted models in memory: those used last, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, replace

from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord


@dataclass(frozen=True)
class CachedModel:
    """An adapted model in memory: its record and its arrays."""

    model: AdaptedModelRecord
    arrays: AdaptedArrays


class ModelCache:
    """A map from id to record and arrays, at most `max_bytes` in all; any thread may use it.

    Threads that ask for the same id at once wait for one load. Arrays in use outlive their place in
    the cache, which only drops its own reference.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._kept: OrderedDict[str, CachedModel] = OrderedDict()
        self._loading: dict[str, Future[CachedModel]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of cached models."""
        return len(self._kept)

    @property
    def used_bytes(self) -> int:
        """Return the bytes of the cached arrays."""
        return self._used_bytes

    def find(self, model_id: str) -> CachedModel | None:
        """Return the cached model of an id, or None; never waits."""
        with self._lock:
            if model_id in self._kept:
                self._kept.move_to_end(model_id)
            return self._kept.get(model_id)

    def get_or_load(self, model_id: str, load: Callable[[], CachedModel]) -> CachedModel:
        """Return the cached model of an id, or the result of `load`; raise what it raises."""
        with self._lock:
            if model_id in self._kept:
                self._kept.move_to_end(model_id)
                return self._kept[model_id]
            waiting = self._loading.get(model_id)
            if waiting is None:
                future = self._loading[model_id] = Future()
        if waiting is not None:
            return waiting.result()
        try:
            held = load()
        except BaseException as error:
            self._finish(model_id, future)
            future.set_exception(error)
            raise
        self._finish(model_id, future, held)
        future.set_result(held)
        return held

    def update(self, model: AdaptedModelRecord) -> None:
        """Replace a cached record; one that is being loaded is dropped, as it may be older."""
        with self._lock:
            self._loading.pop(model.id, None)
            held = self._kept.get(model.id)
            if held is not None and held.model.revision < model.revision:
                self._kept[model.id] = replace(held, model=model)

    def discard(self, model_id: str) -> None:
        """Drop an id; a load of it that is under way is not cached either."""
        with self._lock:
            self._loading.pop(model_id, None)
            dropped = self._drop(model_id)
        del dropped  # freeing it may take a while

    def discard_of(self, bundle_digests: Collection[str]) -> None:
        """Drop the adapted models of bundles."""
        with self._lock:
            ids = [
                model_id
                for model_id, held in self._kept.items()
                if held.model.bundle_digest in bundle_digests
            ]
        for model_id in ids:
            self.discard(model_id)

    def discard_gone(self, model_id: str, tenant: str) -> None:
        """Drop an id unless it is another tenant's."""
        with self._lock:
            held = self._kept.get(model_id)
            if held is not None and held.model.tenant == tenant:
                self._drop(model_id)

    def discard_tenant(self, tenant: str) -> None:
        """Drop all of a tenant; no load that is under way is cached."""
        with self._lock:
            self._loading.clear()
            ids = [name for name, held in self._kept.items() if held.model.tenant == tenant]
            dropped = [self._drop(name) for name in ids]
        del dropped

    def _finish(
        self, model_id: str, future: Future[CachedModel], held: CachedModel | None = None
    ) -> None:
        dropped = []
        with self._lock:
            if self._loading.get(model_id) is not future:
                return  # discarded meanwhile
            del self._loading[model_id]
            if held is None or held.arrays.size_bytes > self._max_bytes:
                return
            self._kept[model_id] = held
            self._used_bytes += held.arrays.size_bytes
            while self._used_bytes > self._max_bytes:
                dropped.append(self._drop(next(iter(self._kept))))

    def _drop(self, model_id: str) -> CachedModel | None:
        held = self._kept.pop(model_id, None)
        if held is not None:
            self._used_bytes -= held.arrays.size_bytes
        return held
