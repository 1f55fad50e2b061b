"""A ledger that misses a fault would prove anything."""

import random
import time
from collections.abc import Callable

import numpy as np
import pytest

from kshot.v1 import adaptation_pb2 as wire
from studies.reliability.ledger import DELETED, EXPIRED, NOT_FOUND, Entry, Ledger
from studies.reliability.tasks import Task, tensor_of

ANSWER = np.array([[0.25, 0.75]], np.float32)
TASK = Task(
    0,
    wire.AdaptRequest(support_set=wire.SupportSet(class_names=["0/0", "0/1"])),
    queries=[],
    weights_digest="a",
    answers=[ANSWER],
)
Change = Callable[[wire.PredictResponse], object]


def entry_of(ledger: Ledger, ttl: float = 100) -> Entry:
    response = wire.AdaptResponse(adapted_model=wire.AdaptedModel(id="am-1", weights_digest="a"))
    response.adapted_model.expire_time.FromNanoseconds(round(1e9 * (time.time() + ttl)))
    ledger.acknowledge(TASK, response)
    return ledger.entries["am-1"]


def answer() -> wire.PredictResponse:
    return wire.PredictResponse(
        adapted_model="am-1",
        weights_digest="a",
        class_names=["0/0", "0/1"],
        predictions=[wire.Prediction(class_index=1)],
        probabilities=tensor_of(ANSWER).tensor,
    )


def swap(response: wire.PredictResponse) -> None:
    response.probabilities.CopyFrom(tensor_of(ANSWER[:, ::-1]).tensor)
    response.predictions[0].class_index = 0


def test_a_right_answer_is_no_fault() -> None:
    ledger = Ledger()

    ledger.predicted(entry_of(ledger), 0, answer(), time.time())

    assert ledger.faults == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda response: setattr(response, "adapted_model", "am-2"), "answered by am-2"),
        (lambda response: setattr(response, "weights_digest", "b"), "answered by am-1 b"),
        (lambda response: response.class_names.reverse(), "names of other classes"),
        (lambda response: response.predictions[0].ClearField("class_index"), "names other classes"),
        (swap, "another answer"),
    ],
)
def test_a_wrong_answer_is_a_fault(change: Change, words: str) -> None:
    ledger, response = Ledger(), answer()
    change(response)

    ledger.predicted(entry_of(ledger), 0, response, time.time())

    assert [fault for fault in ledger.faults if words in fault]


def test_an_answer_after_the_end_is_a_fault() -> None:
    ledger = Ledger()
    entry = entry_of(ledger, ttl=-5)
    entry.delete_ended = time.time() - 1

    ledger.predicted(entry, 0, answer(), time.time())

    assert len(ledger.faults) == 2


@pytest.mark.parametrize("reason", [NOT_FOUND, EXPIRED, DELETED])
def test_a_model_that_has_gone_without_reason_is_a_fault(reason: str) -> None:
    ledger = Ledger()

    assert ledger.refused(entry_of(ledger), reason)

    assert len(ledger.faults) == 1


def test_a_model_that_has_gone_as_it_should_is_none() -> None:
    ledger = Ledger()
    entry = entry_of(ledger, ttl=-1)
    entry.delete_begun = time.time()

    assert ledger.refused(entry, EXPIRED)
    assert ledger.refused(entry, DELETED)
    assert not ledger.refused(entry, "QUEUE_FULL")

    assert ledger.faults == []


def test_other_weights_are_a_fault_only_of_steps_alone() -> None:
    ledger = Ledger()
    for bucket, digest in ((2, "b"), (1, "c")):
        response = wire.AdaptResponse(
            adapted_model=wire.AdaptedModel(id=digest, weights_digest=digest),
            report=wire.AdaptReport(slot_bucket=bucket),
        )
        ledger.acknowledge(TASK, response)

    assert [fault[0] for fault in ledger.faults] == ["c"]


def test_a_model_that_is_forgotten_is_not_picked() -> None:
    ledger = Ledger()
    entry_of(ledger)
    assert ledger.pick(random.Random(0)) is not None
    del ledger.entries["am-1"]

    assert ledger.pick(random.Random(0)) is None
    assert ledger.live_count == 0
