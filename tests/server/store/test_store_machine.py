"""The store against a dictionary that does the same, in any order of calls, crashes included."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from kshot.bundle import BatchNormMode, Head, Preconditioner, Scope
from kshot.server.errors import (
    AdaptedModelDamaged,
    AdaptedModelDeleted,
    AdaptedModelExpired,
    AdaptedModelNotFound,
    StoreIsFull,
)
from kshot.server.request.options import AdaptOptions, Durability
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.store import LocalStore

MAX_COUNT = 4
OPTIONS = AdaptOptions(
    step_count=10,
    learning_rate=0.001,
    batch_size=5,
    preconditioner=Preconditioner.CARRIED,
    head=Head.TRAINED,
    scope=Scope.ALL,
    batch_norm_mode=BatchNormMode.SUPPORT,
    seed=0,
    ttl=50.0,
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


def arrays_of(number: int) -> AdaptedArrays:
    array = np.full((2, 3), number, np.float32)
    return AdaptedArrays({"w": array}, {"m": array[0]}, array.reshape(2, 1, 1, 3))


class StoreMachine(RuleBasedStateMachine):
    """Keeps for each id what it must answer: its number, or the error."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.now = 1000
        self.put_count = 0
        self.alive: dict[str, int] = {}
        self.expiry: dict[str, int] = {}
        self.gone: dict[str, type[AdaptedModelNotFound]] = {}
        self.lost: set[str] = set()
        self.open()

    def open(self) -> None:
        self.store = LocalStore.open(
            Path(self.folder.name),
            max_count=MAX_COUNT,
            max_bytes=10**6,
            clock=lambda: float(self.now),
        )

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def expire(self) -> None:
        for model_id in [each for each in self.alive if self.expiry[each] <= self.now]:
            del self.alive[model_id]
            self.gone[model_id] = AdaptedModelExpired
            self.lost.discard(model_id)

    @rule(target=ids, lifetime=st.integers(1, 50))
    def put(self, lifetime: int) -> str:
        self.put_count += 1
        model_id, number = f"m{self.put_count}", self.put_count
        model = AdaptedModelRecord(
            model_id, "tiny", "b", "c", "d", ("x", "y"), replace(OPTIONS, seed=number),
            float(self.now), float(self.now + lifetime), 0, 1, 0.5,
        )  # fmt: skip
        try:
            self.store.put(model, arrays_of(number))
        except StoreIsFull:
            assert len(self.alive) == MAX_COUNT
            self.gone[model_id] = AdaptedModelNotFound
            return model_id
        assert len(self.alive) < MAX_COUNT
        self.alive[model_id], self.expiry[model_id] = number, self.now + lifetime
        return model_id

    @rule(model_id=ids)
    def read(self, model_id: str) -> None:
        if model_id in self.alive and model_id not in self.lost:
            number = self.alive[model_id]
            assert self.store.get(model_id).options == replace(OPTIONS, seed=number)
            assert self.store.read(model_id).parameters["w"][1, 2] == number
        else:
            wanted = AdaptedModelDamaged if model_id in self.lost else self.gone[model_id]
            try:
                self.store.read(model_id)
            except wanted:
                return
            raise AssertionError(f"{model_id} was read, wanted {wanted}")

    @rule(model_id=ids)
    def delete(self, model_id: str) -> None:
        if model_id in self.alive:
            self.store.delete(model_id)
            del self.alive[model_id]
            self.gone[model_id] = AdaptedModelDeleted
            self.lost.discard(model_id)

    @rule(model_id=ids, missing=st.booleans())
    def damage(self, model_id: str, missing: bool) -> None:
        path = Path(self.folder.name) / "models" / f"{model_id}.safetensors"
        if model_id in self.alive and path.exists():
            path.unlink()
            if not missing:
                path.write_bytes(b"damaged")
            self.lost.add(model_id)
            self.read(model_id)

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.expire()

    @rule()
    def sweep(self) -> None:
        self.store.sweep()

    @rule()
    def restart(self) -> None:
        (Path(self.folder.name) / "models" / ".m0.safetensors.00.partial").write_bytes(b"half")
        self.store.close()
        self.open()

    @invariant()
    def lists_what_is_alive(self) -> None:
        listed = [model.id for model in self.store.list(100)[0]]
        assert set(listed) == self.alive.keys() - self.lost
        assert len(listed) == len(set(listed))


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, derandomize=True
)
