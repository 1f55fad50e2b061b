"""The store's index: what a server makes of flipped bits in it, and of those in its log."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kshot.bundle import BatchNormMode, Head, Preconditioner, Scope
from kshot.server.errors import AdaptedModelDamaged, AdaptedModelNotFound, StartError
from kshot.server.request.options import AdaptOptions, Durability
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.folder import StoreFolder
from kshot.server.store.store import LocalStore
from studies.reliability.fuzz.target import Target

_COUNT, _GONE = 6, ("am-deleted", "am-expired")
_FLIP = struct.Struct("<IB")  # a place, of all bytes of the index's files, and a bit
_OPTIONS = AdaptOptions(
    step_count=10,
    learning_rate=0.001,
    batch_size=5,
    preconditioner=Preconditioner.CARRIED,
    head=Head.TRAINED,
    scope=Scope.ALL,
    batch_norm_mode=BatchNormMode.SUPPORT,
    seed=0,
    ttl=1000.0,
    allow_partial=False,
    deterministic=False,
    estimate=True,
    balance_classes=False,
    fold_count=0,
    time_budget=2.0,
    retain_support=True,
    readapt=False,
    durability=Durability.DISK,
)


def target(folder: Path) -> Target:
    """Open a store with one to four flipped bits in its index; `folder` is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    path = folder / "store"
    records, files = _filled(path)

    def draw(chance: random.Random) -> bytes:
        count = chance.choice((1, 1, 1, 2, 4))
        return b"".join(
            _FLIP.pack(chance.randrange(2**32), chance.randrange(8)) for _ in range(count)
        )

    def run(content: bytes) -> bool:
        _restore(path, _flipped(files, content))
        try:
            opened = _open(path)
        except StartError:
            StoreFolder.open(path, lambda: 1500.0, repair=True).close()
            with _open(path) as store:
                _check(store, records)
            return False
        with opened as store:
            _check(store, records)
        return True

    return Target(draw, run, ())


def _open(path: Path, now: float = 1500.0) -> LocalStore:
    return LocalStore.open(path, max_count=99, max_bytes=10**7, clock=lambda: now)


def _filled(path: Path) -> tuple[Mapping[str, AdaptedModelRecord], Mapping[str, bytes]]:
    """Fill a store as a killed server leaves it; return its records and the bytes of its files."""
    records = {}
    with _open(path, 1000.0) as store:
        for number in range(_COUNT):
            model = _record(f"am-live{number}", number)
            records[model.id] = store.put(model, _arrays(number))
        for name in _GONE:
            store.put(_record(name, 50, 1000.5 if "expired" in name else 9999.0), _arrays(50))
        store.delete("am-deleted")
        files = {
            str(file.relative_to(path)): file.read_bytes()
            for file in path.rglob("*")
            if file.is_file()
        }
    return records, files


def _record(name: str, number: int, expire_time: float = 9999.0) -> AdaptedModelRecord:
    return AdaptedModelRecord(
        id=name,
        model="tiny",
        bundle_digest="b" * 64,
        weights_digest="c" * 64,
        adaptation_digest="d" * 64,
        class_names=tuple(f"{tree} of {number}" for tree in ("Ahorn", "Birke", "Eibe")),
        options=_OPTIONS,
        create_time=1000.0 + number,
        expire_time=expire_time,
        size_bytes=0,
        step_count=10,
        support_accuracy=0.8,
    )


def _arrays(number: int) -> AdaptedArrays:
    array = np.full((2, 3), number, np.float32)
    return AdaptedArrays({"w": array}, {"m": array[0]}, array.reshape(2, 1, 1, 3))


def _flipped(files: Mapping[str, bytes], content: bytes) -> Mapping[str, bytes]:
    flipped = {
        name: bytearray(data)
        for name, data in files.items()
        if name.startswith("index") and not name.endswith("-shm")
    }
    for place, bit in _FLIP.iter_unpack(content):
        rest = place % sum(map(len, flipped.values()))
        for data in flipped.values():
            if rest < len(data):
                data[rest] ^= 1 << bit
                break
            rest -= len(data)
    return {**files, **{name: bytes(data) for name, data in flipped.items()}}


def _restore(path: Path, files: Mapping[str, bytes]) -> None:
    for file in path.rglob("*"):
        name = str(file.relative_to(path))
        if file.is_file() and (name not in files or name.endswith("-shm")):
            file.unlink()
    for name, data in files.items():
        file = path / name
        if name.endswith("-shm"):
            continue
        if not file.exists() or name.startswith("index"):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_bytes(data)


def _check(store: LocalStore, records: Mapping[str, AdaptedModelRecord]) -> None:
    """Hold what a store answers to what was put there."""
    listed = {model.id for model in store.list(99)[0]}
    if not listed <= records.keys():
        raise AssertionError(f"lists what nobody put there: {sorted(listed - records.keys())}")
    for number, (name, record) in enumerate(records.items()):
        try:
            found, arrays = store.get(name), store.read(name)
        except AdaptedModelDamaged:
            raise AssertionError(f"{name}: its file is whole, but not found") from None
        if found != record:
            raise AssertionError(f"{name}: another record: {found}")
        if not np.array_equal(arrays.support, _arrays(number).support):
            raise AssertionError(f"{name}: other arrays")
        if name not in listed:
            raise AssertionError(f"{name}: is not listed")
    for name in _GONE:
        try:
            store.read(name)
        except (AdaptedModelNotFound, AdaptedModelDamaged):
            continue
        raise AssertionError(f"{name}: answers after its end")
