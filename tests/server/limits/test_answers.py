from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot.bundle import BatchNormMode
from kshot.server.call_context import begin_call
from kshot.server.errors import InvalidRequest
from kshot.server.limits.answers import AnswerRoom, answer_bytes, check_answer
from kshot.server.predict.prediction import Answers
from kshot.server.request.inputs import PredictInput
from kshot.server.request.violations import Violations
from kshot.server.rpc.encode import add_predictions, many_predictions, tensor_message
from kshot.v1 import adaptation_pb2 as wire


def asked(top_k: int = 0, omit: bool = False, logits: bool = False) -> PredictInput:
    return PredictInput(None, None, top_k, logits, None, omit)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    count=st.integers(1, 40),
    names=st.lists(st.text(max_size=60), min_size=2, max_size=60),
    top_k=st.integers(-1, 70),
    omit=st.booleans(),
    logits=st.booleans(),
)
def test_the_size_is_known_before(
    count: int, names: list[str], top_k: int, omit: bool, logits: bool
) -> None:
    query = asked(top_k, omit, logits)
    values = np.random.default_rng(0).random((count, len(names)), np.float32)
    answers = Answers(values, values, BatchNormMode.SUPPORT, known=values[:, 0])
    response = wire.PredictResponse(
        probabilities=tensor_message(values),
        logits=tensor_message(values) if logits else None,
        class_names=names,
    )
    if top_k >= 0:
        add_predictions(response, answers, names, query)

    size = answer_bytes(query, count, names)

    assert response.ByteSize() < size


def test_an_answer_without_names_has_none() -> None:
    values = np.eye(3, dtype=np.float32)
    answers = Answers(values, values, BatchNormMode.SUPPORT)

    named, plain = (
        add_predictions(wire.PredictResponse(), answers, "abc", asked(2, omit)).predictions
        for omit in (False, True)
    )

    assert [item.class_name for item in named] == ["a", "b", "c"]
    assert {item.class_name for item in plain} == {""}
    assert {top.class_name for item in plain for top in item.top_classes} == {""}
    assert [item.class_index for item in plain] == [0, 1, 2]


@pytest.mark.parametrize(
    ("query", "ways"),
    [
        (asked(50), "fewer queries at a time or a smaller top_k or omit_class_names"),
        (asked(50, omit=True), "fewer queries at a time or a smaller top_k"),
        (asked(), "fewer queries at a time or omit_class_names"),
    ],
)
def test_a_large_answer_is_refused_with_what_to_do(query: PredictInput, ways: str) -> None:
    violations = Violations()

    check_answer(query, 10**6, ["n" * 256] * 50, 2**22, violations)

    (found,) = violations.copy()._found
    assert found.field == "queries"
    assert found.description.endswith(ways)


def test_answers_wait_for_room_until_others_are_sent() -> None:
    async def main() -> None:
        room = AnswerRoom(most=2**17)
        calls = []
        inside = []

        async def answer(number: int) -> None:
            call = begin_call("Predict", caller=f"peer {number % 4}")
            call.held = []
            calls.append(call)
            assert await room.hold_page(100, max_way=5) == 55  # as many as fit
            inside.append(number)

        tasks = [asyncio.create_task(answer(number)) for number in range(40)]
        while len(calls) < 40:
            await asyncio.sleep(0)
        held = len(inside)
        assert 12 <= held <= 16
        for done in range(1, 40):
            calls[inside[done - 1]].sent()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert sorted(inside) == list(range(40))

    asyncio.run(main())


@pytest.mark.parametrize("kind", [wire.PredictResponse, wire.AdaptAndPredictResponse])
def test_many_predictions_are_those_of_one_message(kind: Any) -> None:  # noqa: ANN401 -- a message
    values = np.random.default_rng(0).random((37, 5), np.float32)
    answers = Answers(values, values[::-1], BatchNormMode.SUPPORT, known=values[:, 0])
    query = PredictInput(None, None, 3, return_logits=False, reject_below=0.5)
    whole = kind(warnings=["a warning"])
    parts = [*many_predictions(answers, "abcde", query), whole.SerializeToString()]

    add_predictions(whole, answers, "abcde", query)

    assert len(parts) == 4
    assert kind.FromString(b"".join(parts)) == whole


def test_numbers_are_bounded_too() -> None:
    async def hold(count: int) -> dict[str, str]:
        begin_call("ModelInfer")
        try:
            await AnswerRoom(most=2**17).hold_numbers(count, Violations())
        except InvalidRequest as error:
            return {each.field: each.description for each in error.violations}
        return {}

    assert asyncio.run(hold(2**14)) == {}
    assert "send fewer images at a time" in asyncio.run(hold(2**15))["queries"]
