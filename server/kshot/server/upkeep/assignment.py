"""Gives adapted models that were kept without keys to a tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kshot.server.errors import AdaptedModelDamaged, AdaptedModelNotFound, StartError, StoreIsFull
from kshot.server.store.failures import StoreFailed
from kshot.server.store.folder import INDEX_FILE
from kshot.server.store.sealing import Seals
from kshot.server.store.store import LocalStore

# Nothing new is kept, so the store's limits do not count.
_UNBOUNDED = 2**63 - 1
_PAGE = 500


@dataclass(frozen=True)
class Assigned:
    """The ids that have an owner now, and those of damaged models, which keep none."""

    ids: tuple[str, ...]
    damaged: tuple[str, ...]


def assign(
    path: Path, tenant: str, ids: Sequence[str] | None, seals: Seals | None = None
) -> Assigned:
    """Give models of nobody in a stopped server's store to `tenant`: all, or those of `ids`.

    `seals` are those of an encrypted store. Raises `StartError`, also where an id is not one of
    nobody; then nothing is changed. Each model is on disk with its owner before the next; if this
    is interrupted, run it again.
    """
    if not (path / INDEX_FILE).exists():
        raise StartError(f"{path}: expected the folder of a store, found none; name another one")
    most = _UNBOUNDED
    with LocalStore.open(path, max_count=most, max_bytes=most, seals=seals) as store:
        wanted = list(ids) if ids is not None else _all_of_nobody(store)
        if missing := [each for each in wanted if not _of_nobody(store, each)]:
            raise StartError(
                f"{missing[0][:40]!a}: expected the id of a model that belongs to nobody, got "
                "another; `--all` takes those that there are"
            )
        try:
            done = [(each, store.assign(each, tenant)) for each in dict.fromkeys(wanted)]
        except (StoreFailed, StoreIsFull) as error:
            raise StartError(f"{path}: cannot assign all models: {error}") from error
    return Assigned(
        tuple(each for each, whole in done if whole),
        tuple(each for each, whole in done if not whole),
    )


def _all_of_nobody(store: LocalStore) -> list[str]:
    ids, token = list[str](), ""
    while True:
        page, token = store.list(_PAGE, token)
        ids += [model.id for model in page]
        if not token:
            return ids


def _of_nobody(store: LocalStore, model_id: str) -> bool:
    try:
        store.get(model_id)
    except (AdaptedModelNotFound, AdaptedModelDamaged, ValueError):
        return False
    return True
