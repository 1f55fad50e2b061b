"""The room for adapted models: of a store, and of each tenant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kshot.server.access.limits import Limits
from kshot.server.errors import QuotaExceeded, StoreIsFull

_MAKE_ROOM = "delete adapted models or let them expire"

Use = Callable[[str | None], tuple[int, int]]


@dataclass(frozen=True)
class NewModel:
    """A model that is to be written: its id, its tenant, its bytes.

    One that is written in the place of an older file is `count` 0 more models, and the bytes are
    those by which it is larger.
    """

    id: str
    tenant: str
    size_bytes: int
    count: int = 1


class StoreRoom:
    """Counts the models of a store and those that are being written; for one thread at a time.

    `use` gives the number of a tenant's models, or of all, and the sum of their bytes.
    """

    def __init__(self, use: Use, caps: tuple[int, int]) -> None:
        """Have room for a number of models, and for their bytes."""
        self._use = use
        self._caps = caps
        self._reserved: dict[str, NewModel] = {}  # by id

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._reserved

    def reserve(self, wanted: NewModel, limits: Limits) -> StoreIsFull | QuotaExceeded | None:
        """Reserve room for a model of a tenant with these limits; return why there is none."""
        full = self._over_limit(wanted, limits) or self._full(wanted)
        if full is None:
            self._reserved[wanted.id] = wanted
        return full

    def release(self, model_id: str) -> None:
        """Forget what was reserved: the model is in the store, or will never be."""
        self._reserved.pop(model_id, None)

    def _over_limit(self, wanted: NewModel, limits: Limits) -> QuotaExceeded | None:
        max_count, max_bytes = limits.max_models, limits.max_bytes
        if max_count is None and max_bytes is None:
            return None
        count, used_bytes = self._use_with(wanted, wanted.tenant)
        if max_count is not None and wanted.count and count > max_count:
            return QuotaExceeded("models", max_count, _MAKE_ROOM)
        if max_bytes is not None and used_bytes > max_bytes:
            return QuotaExceeded("bytes", max_bytes, _MAKE_ROOM)
        return None

    def _full(self, wanted: NewModel) -> StoreIsFull | None:
        count, used_bytes = self._use_with(wanted)
        max_count, max_bytes = self._caps
        if wanted.count and count > max_count:
            return StoreIsFull("models", max_count)
        if used_bytes > max_bytes:
            return StoreIsFull("bytes", max_bytes)
        return None

    def _use_with(self, wanted: NewModel, tenant: str | None = None) -> tuple[int, int]:
        """Return the use of a tenant, or of all, with the models to write."""
        count, used_bytes = self._use(tenant)
        others = [each for each in self._reserved.values() if tenant in (None, each.tenant)]
        written = [wanted, *others]
        more_bytes = sum(each.size_bytes for each in written)
        return count + sum(each.count for each in written), used_bytes + more_bytes
