"""A flipped bit in the index: no wrong answer, no model lost that is whole, and words that help.

`KSHOT_FLIPS=2000` flips more bits than CI does.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kshot.server.errors import (
    AdaptedModelDamaged,
    AdaptedModelDeleted,
    AdaptedModelExpired,
    AdaptedModelNotFound,
    StartError,
)
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.folder import StoreFolder
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]

COUNT = 8
FLIPS = int(os.environ.get("KSHOT_FLIPS", "15"))


def open_store(folder: Path) -> LocalStore:
    return LocalStore.open(folder, max_count=99, max_bytes=10**7, clock=lambda: 1500.0)


@pytest.fixture(scope="module")
def stores(
    tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel, make_arrays: MakeArrays
) -> tuple[dict[str, Path], dict[str, AdaptedModelRecord]]:
    """A store that was stopped and one that was killed, which has a log; and what they hold."""
    root = tmp_path_factory.mktemp("flips")
    stopped, killed = root / "stopped", root / "killed"
    records = {}
    with LocalStore.open(stopped, max_count=99, max_bytes=10**7, clock=lambda: 1000.0) as store:
        for index in range(COUNT):
            model = replace(
                make_model(f"am-live{index}", create_time=1000.0 + index),
                class_names=tuple(f"{name} of {index}" for name in ("Ahorn", "Birke", "Eibe")),
            )
            records[model.id] = store.put(model, make_arrays(index))
        for index in range(3):
            store.put(make_model(f"am-deleted{index}"), make_arrays())
            store.put(make_model(f"am-expired{index}", expire_time=1000.5), make_arrays())
            store.delete(f"am-deleted{index}")
    with open_store(stopped) as store:
        store.sweep()
        for index in range(COUNT, COUNT + 2):
            model = make_model(f"am-live{index}", create_time=1000.0 + index)
            records[model.id] = store.put(model, make_arrays(index))
        shutil.copytree(stopped, killed)
    return {"stopped": stopped, "killed": killed}, records


def flipped(folder: Path, source: random.Random) -> str:
    """Flip one bit of the index or its log, and say which."""
    path = source.choice([each for each in folder.glob("index*") if each.stat().st_size])
    content = bytearray(path.read_bytes())
    place, bit = source.randrange(len(content)), source.randrange(8)
    while not any(content[place - place % 4096 :][:4096]):  # a page that is kept free
        place = source.randrange(len(content))
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name} {place} {bit}"


def outcomes(
    store: LocalStore, records: dict[str, AdaptedModelRecord], make_arrays: MakeArrays
) -> Iterator[str]:
    """Yield what each id answers; fail if an answer is wrong."""
    listed = {model.id for model in store.list(99)[0]}
    for index, (model_id, record) in enumerate(records.items()):
        try:
            assert store.get(model_id) == record
            arrays = store.read(model_id)
        except AdaptedModelDamaged:
            assert model_id not in listed
            yield "damaged"
            continue
        np.testing.assert_array_equal(arrays.support, make_arrays(index).support)
        assert model_id in listed
        yield "right"
    assert listed <= records.keys()
    for index in range(3):
        for kind, wanted in (("deleted", AdaptedModelDeleted), ("expired", AdaptedModelExpired)):
            # A lost tombstone leaves an id unknown; a lost log leaves a row without its file.
            with pytest.raises((AdaptedModelNotFound, AdaptedModelDamaged)) as caught:
                store.read(f"am-{kind}{index}")
            assert caught.type in (wanted, AdaptedModelNotFound, AdaptedModelDamaged)
    yield "gone"


@pytest.mark.parametrize("kind", ["stopped", "killed"])
def test_a_flipped_bit_changes_no_answer(
    stores: tuple[dict[str, Path], dict[str, AdaptedModelRecord]],
    make_arrays: MakeArrays,
    tmp_path: Path,
    kind: str,
) -> None:
    folders, records = stores
    counts: Counter[str] = Counter()
    for seed in range(FLIPS):
        folder = tmp_path / "store"
        shutil.copytree(folders[kind], folder)
        place = flipped(folder, random.Random(f"{kind}{seed}"))
        try:
            try:
                store = open_store(folder)
            except StartError as error:
                assert f"kshot store repair {folder}" in str(error)
                counts["refused"] += 1
                StoreFolder.open(folder, lambda: 1500.0, repair=True).close()
                store = open_store(folder)
            with store:
                counts.update(outcomes(store, records, make_arrays))
        except Exception as error:
            raise AssertionError(place) from error
        shutil.rmtree(folder)

    assert counts["gone"] == FLIPS
    assert counts["damaged"] == 0  # the files have what the index lost
    print(kind, dict(counts))
