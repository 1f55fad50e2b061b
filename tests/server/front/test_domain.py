"""The parts of the front that need no server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kshot.bundle import BatchNormMode, Head, Preconditioner, Scope
from kshot.server.admission import Admission
from kshot.server.errors import InvalidRequest, QueueFull, ShuttingDown
from kshot.server.predict.prediction import softmax
from kshot.server.request.inputs import ResolvedOptions
from kshot.server.request.validation import check_id
from kshot.server.request.violations import Violations
from kshot.server.rpc.encode import head_value, mode_value, preconditioner_value, scope_value
from kshot.server.store.kept_models import new_id

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
