"""The parts of the front that need no server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kshot.bundle import BatchNormMode, Head, Preconditioner, Scope
from kshot.server.adapted_model import AdaptedArrays, AdaptedModel
from kshot.server.admission import Admission
from kshot.server.arrays_cache import ArraysCache
from kshot.server.call import begin_call
from kshot.server.errors import InvalidRequest, QueueFull, ShuttingDown
from kshot.server.kept_models import KeptModels, new_id
from kshot.server.prediction import softmax
from kshot.server.store import LocalStore
from kshot.server.task import ResolvedOptions
from kshot.server.validation import check_id
from kshot.server.violations import Violations
from kshot.server.wire_answers import head_value, mode_value, preconditioner_value, scope_value
from kshot.server.workers import Workers

OPTIONS = ResolvedOptions(
    step_count=3,
    learning_rate=0.1,
    batch_size=5,
    preconditioner=Preconditioner.SGD,
    head=Head.ZERO,
    scope=Scope.HEAD,
    batch_norm_mode=BatchNormMode.TRANSDUCTIVE,
    seed=2**63 - 1,
    ttl=1.5,
    allow_partial=True,
    deterministic=False,
)


def test_options_come_back_from_their_document() -> None:
    assert ResolvedOptions.from_document(OPTIONS.document()) == OPTIONS


def test_only_what_decides_the_bytes_is_digested() -> None:
    longer = replace(OPTIONS, ttl=9.0, allow_partial=False)

    assert longer.digested(3) == OPTIONS.digested(3)
    assert replace(OPTIONS, seed=1).digested(3) != OPTIONS.digested(3) != OPTIONS.digested(2)


def test_the_wire_counts_choices_as_the_words_are_listed() -> None:
    assert [mode_value(word) for word in BatchNormMode] == [1, 2, 3]
    assert [preconditioner_value(word) for word in Preconditioner] == [1, 2, 3, 4]
    assert [head_value(word) for word in Head] == [1, 2, 3]
    assert [scope_value(word) for word in Scope] == [1, 2]


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    )
)
def test_probabilities_are_finite_and_sum_to_one(logits: np.ndarray[Any, Any]) -> None:
    probabilities = softmax(logits)

    assert probabilities.dtype == np.float32
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1, dtype=np.float64), 1, atol=1e-5)


def test_new_ids_fit_and_differ() -> None:
    ids = {new_id() for _ in range(100)}

    assert len(ids) == 100
    for model_id in ids:
        assert check_id(model_id, Violations())


@pytest.mark.parametrize("text", ["am-" + "a" * 26 + "\n", "am-" + "a" * 27, "AM-" + "a" * 26])
def test_what_is_no_id_is_refused(text: str) -> None:
    violations = Violations()

    assert not check_id(text, violations)
    with pytest.raises(InvalidRequest, match="adapted_model: got"):
        violations.check()


def test_admission_counts_and_closes() -> None:
    async def main() -> None:
        admission = Admission(2)
        await admission.wait_idle()
        with admission.admit():
            with admission.admit(), pytest.raises(QueueFull), admission.admit():
                pass
            with admission.admit():
                admission.close()
            with pytest.raises(ShuttingDown), admission.admit():
                pass
        await admission.wait_idle()

    asyncio.run(main())


class SlowStore:
    """A store whose `put` waits, and which tells of `delete`."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.putting = threading.Event()
        self.go = threading.Event()
        self.deleted = threading.Event()

    def put(self, model: AdaptedModel, arrays: AdaptedArrays) -> AdaptedModel:
        self.putting.set()
        self.go.wait()
        return self._store.put(model, arrays)

    def delete(self, model_id: str) -> None:
        self._store.delete(model_id)
        self.deleted.set()


def test_what_was_kept_for_a_caller_who_left_is_dropped(
    tmp_path: Path, make_model: Callable[..., Any], make_arrays: Callable[..., Any]
) -> None:
    """Nobody knows the id of what an abandoned Adapt has stored: it must not fill the store."""
    with LocalStore.open(tmp_path / "s", max_count=5, max_bytes=10**7) as store:
        slow = SlowStore(store)

        async def main() -> None:
            begin_call("Adapt")
            workers = Workers()
            slow_store: Any = slow
            kept = KeptModels(slow_store, ArraysCache(0), workers)
            model = make_model(create_time=time.time(), expire_time=time.time() + 1000)
            keeping = asyncio.create_task(kept.keep(model, make_arrays()))
            await asyncio.to_thread(slow.putting.wait)
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping
            slow.go.set()
            await asyncio.to_thread(slow.deleted.wait)
            await workers.close()

        asyncio.run(main())

        assert store.list(10) == ([], "")
