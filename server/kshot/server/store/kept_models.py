"""The stored adapted models for the event loop: store and cache, used in threads."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from kshot.server.access.limits import UNLIMITED, Limits
from kshot.server.call_context import current_call, current_tenant
from kshot.server.errors import (
    AdaptedModelExpired,
    AdaptedModelNotFound,
    EtagMismatch,
    InvalidRequest,
    KshotServerError,
    RequestError,
    StoreIsFull,
    StoreUnavailable,
)
from kshot.server.event_log import log_event, short_id
from kshot.server.request.list_filter import ListFilter
from kshot.server.request.renewal import Renewal
from kshot.server.request.validation import check_id
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.failures import DiskFull, StoreFailed
from kshot.server.store.model_cache import CachedModel, ModelCache
from kshot.server.store.store import NO_FILTER, LocalStore, RequestOf
from kshot.server.store.tables.rows import AnsweredRequest
from kshot.server.workers import Workers

Result = TypeVar("Result")

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 100


class KeptModels:
    """Stores, finds and deletes adapted models; raises `RequestError`s."""

    def __init__(
        self,
        store: LocalStore,
        cache: ModelCache,
        workers: Workers,
        limits_of: Callable[[str], Limits] = lambda _tenant: UNLIMITED,
    ) -> None:
        """Keep what `limits_of` a tenant allow."""
        self._limits_of = limits_of
        self._store = store
        self._cache = cache
        self._workers = workers

    async def keep(
        self,
        model: AdaptedModelRecord,
        arrays: AdaptedArrays,
        request: RequestOf | None = None,
    ) -> AdaptedModelRecord:
        """Store a model of this call's tenant under a new id; drop it if the caller has left.

        `request` answers the request by the record as it is stored, see `LocalStore.put`. Such a
        model is not dropped: who repeats the request gets it.
        """
        tenant = current_tenant()
        model = replace(self._store.stored(model), id=new_id(), tenant=tenant)
        limits, begun = self._limits_of(tenant), current_call().started
        handover = Handover()

        def put() -> AdaptedModelRecord:
            kept = self._store.put(model, arrays, request, limits, begun)
            if not handover.give() and request is None:
                self._drop(model)
                return kept
            # The load asks the store again: it fails if the model was deleted meanwhile.
            with suppress(KshotServerError):
                self._cache.get_or_load(
                    kept.id,
                    lambda: CachedModel(
                        self._store.get(kept.id, kept.tenant), without_examples(arrays)
                    ),
                )
            return kept

        if request is not None:
            return self._store.on_wire(await _to_the_end(self._in_store(put)))
        try:
            return self._store.on_wire(await self._in_store(put))
        except asyncio.CancelledError:
            if handover.leave():
                with suppress(RuntimeError):  # the server has stopped: it stays until it expires
                    self._workers.store_later(lambda: self._drop(model))
            raise

    async def find_request(self, request_id: str) -> AnsweredRequest | None:
        """Return the answered request of an id of this call's tenant, None if none is kept."""
        tenant = current_tenant()
        return await self._in_store(lambda: self._store.find_request(request_id, tenant))

    async def get(self, model_id: str) -> AdaptedModelRecord:
        """Return the record of an adapted model."""
        tenant = current_tenant()
        found = await self._about(model_id, lambda: self._store.get(model_id, tenant))
        return self._store.on_wire(found)

    async def read(self, model_id: str) -> tuple[AdaptedModelRecord, AdaptedArrays]:
        """Return an adapted model with its arrays, from memory if they are there."""
        held, tenant = self._cache.find(model_id), current_tenant()
        if (
            held is None
            or held.model.tenant != tenant
            or held.model.expire_time <= self._store.now()
            or self._store.erases(tenant)
        ):
            # Only the store knows what became of it, and whose it is.
            held = await self._about(model_id, lambda: self._load(model_id, tenant))
        return self._store.on_wire(held.model), held.arrays

    async def read_whole(self, model_id: str) -> tuple[AdaptedModelRecord, AdaptedArrays]:
        """Return an adapted model with its arrays and examples, from the disk."""
        tenant = current_tenant()
        model, arrays = await self._about(
            model_id,
            lambda: (self._store.get(model_id, tenant), self._store.read(model_id, tenant)),
        )
        return self._store.on_wire(model), arrays

    async def page(
        self, page_size: int, page_token: str, model: str, wanted: ListFilter = NO_FILTER
    ) -> tuple[Sequence[AdaptedModelRecord], str]:
        """Return a page of records, and the token of the next or "" at the end."""
        if page_size < 0:
            raise InvalidRequest.about("page_size", f"expected 0 or more, got {page_size}")
        size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        tenant = current_tenant()
        page, token = await self._in_store(
            lambda: self._store.list(size, page_token, model or None, tenant, wanted)
        )
        return [self._store.on_wire(each) for each in page], token

    async def renew(self, model_id: str, renewal: Renewal, max_ttl: float) -> AdaptedModelRecord:
        """Change when an adapted model expires; raise `EtagMismatch` too."""
        violations, tenant = Violations(), current_tenant()
        check_id(model_id, violations)
        now, skipped = self._store.now(), self._store.skipped
        end = renewal.end(now + skipped, max_ttl, violations) - skipped
        violations.check()
        limits = self._limits_of(tenant)

        def change(model: AdaptedModelRecord) -> AdaptedModelRecord:
            etag = self._store.on_wire(model).etag
            if renewal.etag not in ("", etag):
                raise EtagMismatch(model_id, etag)
            return replace(model, expire_time=end)

        def renewed() -> AdaptedModelRecord:
            model = self._store.change(model_id, change, tenant, limits)
            self._cache.update(model)
            return model

        return self._store.on_wire(await self._about(model_id, renewed))

    async def replace(
        self, old: AdaptedModelRecord, model: AdaptedModelRecord, arrays: AdaptedArrays
    ) -> None:
        """Put what a model was adapted to again in its place."""
        limits = self._limits_of(current_tenant())

        def put() -> None:
            try:
                self._store.replace(old, self._store.stored(model), arrays, limits)
            finally:
                self._cache.discard(old.id)

        await self._about(old.id, put)

    async def delete(self, model_id: str) -> None:
        """Delete an adapted model."""
        tenant = current_tenant()

        def forget() -> None:
            try:
                self._store.delete(model_id, tenant)
            except AdaptedModelNotFound:  # it may be another tenant's
                raise
            except BaseException:  # its row may be gone although the removal of its file failed
                self._cache.discard(model_id)
                raise
            self._cache.discard(model_id)

        await self._about(model_id, forget)

    def forget_bundles(self, digests: Collection[str]) -> None:
        """Free the memory of adapted models of bundles; they stay in the store."""
        self._cache.discard_of(digests)

    async def delete_tenant(self, tenant: str) -> int:
        """Erase all that is kept of a tenant; return the number of its models."""

        def erase() -> int:
            self._cache.discard_tenant(tenant)
            try:
                return self._store.delete_tenant(tenant)
            finally:
                self._cache.discard_tenant(tenant)

        return await self._in_store(erase)

    def _load(self, model_id: str, tenant: str) -> CachedModel:
        """Return an adapted model from the store, its arrays from memory if possible; blocks."""
        model = self._store.get(model_id, tenant)

        def load() -> CachedModel:
            before = model
            while True:
                arrays = without_examples(self._store.read(model_id, tenant))
                # It asks again: what changes from here on finds it in the cache.
                after = self._store.get(model_id, tenant)
                if after.bundle_digest == before.bundle_digest:
                    return CachedModel(after, arrays)
                before = after  # it was adapted again meanwhile

        held = self._cache.get_or_load(model_id, load)
        same = held.model.bundle_digest == model.bundle_digest
        return replace(held, model=model) if same else held

    async def _about(self, model_id: str, function: Callable[[], Result]) -> Result:
        violations = Violations()
        check_id(model_id, violations)
        violations.check()
        try:
            return await self._in_store(function)
        except AdaptedModelNotFound:  # expired or deleted, perhaps, or another tenant's
            self._cache.discard_gone(model_id, current_tenant())
            raise

    async def _in_store(self, function: Callable[[], Result]) -> Result:
        """Run in a thread of the store; log what the system refuses there."""
        try:
            return await self._workers.store(function)
        except StoreFailed as error:
            log_event("store_failed", logging.ERROR, problem=str(error))
            if isinstance(error, DiskFull):
                raise StoreIsFull("disk") from error
            raise StoreUnavailable from error

    def _drop(self, model: AdaptedModelRecord) -> None:
        """Delete a model whose caller never heard of it; blocks."""
        try:
            with suppress(AdaptedModelExpired):
                self._store.delete(model.id, model.tenant)
        except KshotServerError as error:
            problem = type(error).__name__ if isinstance(error, RequestError) else str(error)
            log_event("not_dropped", logging.ERROR, problem=problem, id=short_id(model.id))
        finally:
            self._cache.discard(model.id)


def without_examples(arrays: AdaptedArrays) -> AdaptedArrays:
    """Return what queries need: examples stay on the disk."""
    return replace(arrays, examples=None)


async def _to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Do work that does not end with this task: whoever asks next finds all of it or nothing."""
    task = asyncio.ensure_future(work)
    left: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:  # another caller may come, and leave too
            left = error
    if left is None:
        return task.result()
    _ = task.cancelled() or task.exception()  # nobody is left to hear of it
    raise left


class Handover:
    """Settles which comes first: a thread stores a model, or its caller leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given = self._left = False

    def give(self) -> bool:
        """Note that it is stored; return whether the caller was still there."""
        with self._lock:
            self._given = True
            return not self._left

    def leave(self) -> bool:
        """Note that the caller has left; return whether it was stored before."""
        with self._lock:
            self._left = True
            return self._given


def new_id() -> str:
    """Return an id that nobody can guess: `am-` and 26 characters of a-z and 2-7."""
    return "am-" + base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()
